"""Any history of edits, against a model that is too simple to be wrong: on both databases, rows are what it says."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from reclaim.common.clock import FixedClock
from reclaim.common.errors import Conflict, Invalid, NotFound, ReclaimError
from reclaim.scanner import actions, catalog_actions, catalog_store, store
from reclaim.scanner.catalog import Row
from services.scanner.tests.scanner_world import NOON, SECRET, SETTINGS, TERMS, Scanner, small_org, started

KEYS = ("A", "B", "C", "S", "T")
RULES = ("first", "second")
T = TypeVar("T")

keys = st.sampled_from(KEYS)
parts = st.frozensets(keys, max_size=3)
programs = st.frozensets(st.sampled_from(["windows:a.exe", "linux:a", "macos:a"]), max_size=2)
rules = st.sampled_from(RULES)


@dataclass
class Model:
    """The catalogue and the rules as sets; what a rule shows is computed from nothing but these."""

    components: dict[str, frozenset[str]] = field(default_factory=dict)
    processes: dict[str, frozenset[str]] = field(default_factory=dict)
    chosen: dict[str, dict[str, str]] = field(default_factory=dict)
    legacy: dict[tuple[str, str], frozenset[str]] = field(default_factory=dict)

    def fits(self, key: str, components: frozenset[str]) -> bool:
        if not components:
            return True
        nested = any(self.components[part] for part in components if part in self.components)
        inside = any(key in other for other in self.components.values())
        return key not in components and components <= set(self.components) and not nested and not inside

    def shows(self, name: str) -> set[tuple[str, str, str, str, frozenset[str]]]:
        found = set()
        for product, text in self.chosen[name].items():
            if (name, product) in self.legacy:
                found.add(("", product, "legacy", text, self.legacy[name, product]))
                continue
            found.add(("", product, "bulk", text, self.processes.get(product, frozenset())))
            found |= {(product, part, "bulk", "", self.processes[part]) for part in self.components.get(product, ())}
        return found


class Editing(RuleBasedStateMachine):
    """People who edit the catalogue and two rules. `database_url` and `folder` are set by the test."""

    database_url: str | None = None
    folder: Path

    def __init__(self) -> None:
        super().__init__()
        self.model = Model()
        self.loop = asyncio.new_event_loop()
        self.stack = AsyncExitStack()
        self.scanner, self.rules = self.do(self._start())

    async def _start(self) -> tuple[Scanner, dict[str, str]]:
        clock = FixedClock(NOON)
        folder = Path(tempfile.mkdtemp(dir=self.folder))
        scanner = await self.stack.enter_async_context(
            started(folder, small_org(clock), clock, database_url=self.database_url)
        )
        async with scanner.running.database.unit() as unit:
            for table in reversed(scanner.running.service.metadata.sorted_tables):
                await unit.db.execute(sa.delete(table))
        connection = await actions.add_connection(
            scanner.deps, name="Acme", kind="salesforce", settings=SETTINGS, credentials={"client_secret": SECRET}
        )
        made = {}
        for name in RULES:
            terms = {**TERMS, "name": name, "products": ["BASE"]}
            made[name] = (await actions.add_rule(scanner.deps, connection.id, terms, author="otto")).id
            self.model.chosen[name] = {"BASE": ""}
        return scanner, made

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(work)

    def refused(self, work: Coroutine[Any, Any, Any], *kinds: type[ReclaimError]) -> None:
        with pytest.raises(kinds):
            self.do(work)

    def teardown(self) -> None:
        self.do(self.stack.aclose())
        self.loop.close()

    # The catalogue.

    @rule(key=keys, components=parts, processes=programs)
    def put(self, key: str, components: frozenset[str], processes: frozenset[str]) -> None:
        raw = {"key": key, "name": key, "components": sorted(components), "processes": sorted(processes)}
        known = key in self.model.components
        work = (
            catalog_actions.change_product(self.scanner.deps, key, raw, author="olga")
            if known
            else catalog_actions.add_product(self.scanner.deps, raw, author="olga")
        )
        if not self.model.fits(key, components):
            self.refused(work, Invalid)
            return
        self.do(work)
        self.model.components[key] = components
        self.model.processes[key] = processes

    @rule(key=keys)
    def drop(self, key: str) -> None:
        work = catalog_actions.remove_product(self.scanner.deps, key, author="olga")
        if key not in self.model.components:
            self.refused(work, NotFound)
        elif any(key in chosen for chosen in self.model.chosen.values()):
            self.refused(work, Conflict)
        else:
            self.do(work)
            del self.model.components[key], self.model.processes[key]
            self.model.components = {other: inside - {key} for other, inside in self.model.components.items()}

    @rule(chosen=st.lists(st.tuples(keys, parts, programs), max_size=3, unique_by=lambda line: line[0]))
    def bring_a_file(self, chosen: list[tuple[str, frozenset[str], frozenset[str]]]) -> None:
        lines = [f"{key},{key},{'|'.join(sorted(inside))},{'|'.join(sorted(run))}" for key, inside, run in chosen]
        data = "\n".join(["key,name,components,processes", *lines]).encode()
        done = self.do(catalog_actions.import_products(self.scanner.deps, data, author="olga"))
        bad = 0
        for key, inside, run in sorted(chosen, key=lambda line: bool(line[1])):
            if self.model.fits(key, inside):
                self.model.components[key], self.model.processes[key] = inside, run
            else:
                bad += 1
        assert len(done.bad) == bad

    # The rules.

    @rule(name=rules, key=keys, text=st.sampled_from(["", "price ge 1", "price ge 2"]))
    def choose(self, name: str, key: str, text: str) -> None:
        work = catalog_actions.add_to_rule(self.scanner.deps, self.rules[name], key, author="otto", filter=text)
        if key in self.model.chosen[name]:
            self.refused(work, Conflict)
            return
        self.do(work)
        self.model.chosen[name][key] = text

    @rule(name=rules, key=keys)
    def take_out(self, name: str, key: str) -> None:
        row, chosen = self._row(name, key)
        if row is None:
            return
        work = catalog_actions.remove_from_rule(self.scanner.deps, self.rules[name], row, author="otto")
        if not chosen:
            self.refused(work, Conflict)
            return
        self.do(work)
        self._forget(name, key)

    @rule(name=rules, key=keys, by=keys)
    def exchange(self, name: str, key: str, by: str) -> None:
        row, chosen = self._row(name, key)
        if row is None:
            return
        work = catalog_actions.change_in_rule(self.scanner.deps, self.rules[name], row, author="otto", product=by)
        if not chosen or (by != key and by in self.model.chosen[name]):
            self.refused(work, Conflict)
            return
        self.do(work)
        if by != key:
            self.model.chosen[name][by] = self._forget(name, key)

    @rule(name=rules, key=keys, text=st.sampled_from(["", "price ge 1", "price ge 2"]))
    def filter(self, name: str, key: str, text: str) -> None:
        row, chosen = self._row(name, key)
        if row is None:
            return
        work = catalog_actions.change_in_rule(self.scanner.deps, self.rules[name], row, author="otto", filter=text)
        if not chosen:
            self.refused(work, Conflict)
            return
        self.do(work)
        self.model.chosen[name][key] = text

    @rule(name=rules, products=st.frozensets(keys, min_size=1, max_size=3))
    def edit_terms(self, name: str, products: frozenset[str]) -> None:
        wanted = sorted({*products, "BASE"})
        self.do(actions.change_rule(self.scanner.deps, self.rules[name], {"products": wanted}, author="otto"))
        for key in set(self.model.chosen[name]) - set(wanted):
            self._forget(name, key)
        for key in wanted:
            self.model.chosen[name].setdefault(key, "")

    @rule(name=rules, key=keys)
    def grow_old(self, name: str, key: str) -> None:
        """Have a row be one that an earlier release left."""
        if key not in self.model.chosen[name] or (name, key) in self.model.legacy:
            return
        self.do(self._make_legacy(name, key))
        self.model.legacy[name, key] = self.model.processes.get(key, frozenset())

    @rule(name=rules, key=keys)
    def renew(self, name: str, key: str) -> None:
        row, chosen = self._row(name, key)
        if row is None or not chosen:
            return
        self.do(catalog_actions.renew_in_rule(self.scanner.deps, self.rules[name], row, author="otto"))
        self.model.legacy.pop((name, key), None)

    def _forget(self, name: str, key: str) -> str:
        self.model.legacy.pop((name, key), None)
        return self.model.chosen[name].pop(key)

    def _row(self, name: str, key: str) -> tuple[str | None, bool]:
        stored = [one for one in self.do(self._rows(name)) if one.row.product == key]
        chosen = [one for one in stored if not one.row.is_component]
        first = next(iter(chosen or stored), None)
        return (None if first is None else first.id), bool(chosen)

    async def _rows(self, name: str) -> list[catalog_store.StoredRow]:
        async with self.scanner.running.database.reading() as db:
            return await catalog_store.rows(db, self.rules[name])

    async def _make_legacy(self, name: str, key: str) -> None:
        table = catalog_store.RULE_PRODUCTS
        mine = table.c.rule_id == self.rules[name]
        async with self.scanner.running.database.unit() as unit:
            await unit.db.execute(sa.delete(table).where(mine, table.c.parent == key))
            await unit.db.execute(
                sa.update(table).where(mine, table.c.parent == "", table.c.product == key).values(mode="legacy")
            )

    # What must hold.

    @invariant()
    def every_rule_shows_what_the_model_says(self) -> None:
        for name in RULES:
            stored = self.do(self._rows(name))
            assert {_plain(one.row) for one in stored} == self.model.shows(name)
            assert len(stored) == len(self.model.shows(name))
            assert self.do(self._terms(name)) == tuple(sorted(self.model.chosen[name]))

    async def _terms(self, name: str) -> tuple[str, ...]:
        async with self.scanner.running.database.reading() as db:
            covered = await catalog_store.covered(db, sorted(self.model.chosen[name]), self.rules[name])
            shown = {(parent, product) for parent, product, *_ in self.model.shows(name)}
            assert set(covered.products) == {product for _parent, product in shown}
            assert {suite.product for suite in covered.suites} == {parent for parent, _product in shown if parent}
            return (await store.rule(db, self.rules[name])).terms.products

    @invariant()
    def the_catalogue_is_the_models(self) -> None:
        known = self.do(self._known())
        assert {key: frozenset(one.components) for key, one in known.items()} == self.model.components
        assert {key: frozenset(map(str, one.processes)) for key, one in known.items()} == self.model.processes

    async def _known(self) -> Any:
        async with self.scanner.running.database.reading() as db:
            return await catalog_store.catalog(db)


def _plain(row: Row) -> tuple[str, str, str, str, frozenset[str]]:
    return row.parent, row.product, row.mode, row.filter, frozenset(map(str, row.processes))


@pytest.fixture
def editing(tmp_path: Path, database_url: str | None) -> type[Editing]:
    class Here(Editing):
        pass

    Here.database_url, Here.folder = database_url, tmp_path
    return Here


@pytest.mark.timeout(300)
def test_any_history_of_edits_leaves_the_rows_that_the_model_says(editing: type[Editing]) -> None:
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        editing,
        settings=settings(
            max_examples=12,
            stateful_step_count=30,
            deadline=None,
            phases=(Phase.explicit, Phase.generate, Phase.shrink),
            suppress_health_check=list(HealthCheck),
        ),
    )
