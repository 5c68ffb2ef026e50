"""A dry run means to do exactly what a live run does: two worlds from one seed, told the same, and compared.

One thing only the org can say: whether it refuses a write. So nothing is refused here.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import msgspec
import pytest

from reclaim.common import envelope
from reclaim.common.contracts import Event
from reclaim.common.envelope import Received
from reclaim.connectors.fake import FakeRecord, Write
from reclaim.lifecycle import store
from reclaim.lifecycle.actions import Actions, Answer, Outcome
from reclaim.lifecycle.domain import Effect, Reactivate, RecordsHandedOver, Retry, SeatChecked
from reclaim.lifecycle.submit import Submission, submit
from services.lifecycle.tests.lifecycle_site import DAY, Site, case_id, decided, delivered, flagged, serving

HOLDERS = 30
STATES_MET = {
    "kept", "cancelled", "skipped", "restored", "reclaimed", "reactivated", "attention", "handing_over", "frozen",
}  # fmt: skip


@dataclass
class Trace:
    """What a world did, case by case and in order: nothing in it says whether the run was live."""

    steps: list[tuple[str, str, bool, str, str]] = field(default_factory=list)
    """Case, command, whether it was accepted, state before and after."""
    effects: list[tuple[str, str]] = field(default_factory=list)
    """Case and effect, as they were stored to be done."""
    plans: list[str] = field(default_factory=list)
    """Which records were to go to whom."""
    said: list[tuple[str, Event]] = field(default_factory=list)
    """Case and event."""

    def intended(self) -> Counter[tuple[str, str, object]]:
        """Return what an org's log must hold if all of it is done: (id, field, new value)."""
        fields: Mapping[str, tuple[tuple[str, object], ...]] = {
            "seat_frozen": (("frozen", True),),
            "seat_unfrozen": (("frozen", False),),
            "seat_deactivated": (("active", False),),
            "seat_given_back": (("active", True), ("frozen", False)),
        }
        found: Counter[tuple[str, str, object]] = Counter()
        for case, command, accepted, _before, _after in self.steps:
            for name, value in fields.get(command, ()) if accepted else ():
                found[holder_of(case), name, value] += 1
        for plan in map(json.loads, self.plans):
            for ids in plan["records"].values():
                found.update((record, "owner", plan["successor"]) for record in ids)
        return found


def holder_of(case: str) -> str:
    return case.replace("case", "005")


def written(writes: Sequence[Write]) -> Counter[tuple[str, str, object]]:
    return Counter((write.id, write.field, write.after) for write in writes)


async def play(
    tmp_path: Path, seed: int, *, dry_run: bool, monkeypatch: pytest.MonkeyPatch
) -> tuple[Trace, list[Write]]:
    """Play a seed's history, live or dry, and return its trace and the org's own log of writes."""
    trace, chance = Trace(), Random(seed)
    with monkeypatch.context() as patched:
        _watch(trace, patched)
        for name in ("RUN_MOST", "DAY_MOST", "MONTH_MOST"):
            patched.setenv(f"RECLAIM_LIFECYCLE_BRAKE_{name}", "1000")
        patched.setenv("RECLAIM_LIFECYCLE_BRAKE_CANARY", "0")
        folder = tmp_path / f"{seed}-{dry_run}"
        folder.mkdir()
        async with serving(folder, holders=HOLDERS) as site:
            await _live_through(site, chance, dry_run=dry_run)
            await _read(site, trace)
            return trace, site.org.writes


def _watch(trace: Trace, patched: pytest.MonkeyPatch) -> None:
    add, keep = store.add_effects, store.keep_plans

    async def add_effects(db: Any, cases: Sequence[tuple[Any, Effect]]) -> None:
        trace.effects.extend((case.id, effect.value) for case, effect in cases)
        await add(db, cases)

    async def keep_plans(db: Any, plans: Mapping[str, dict[str, Any]]) -> None:
        trace.plans.extend(json.dumps(plan, sort_keys=True) for plan in plans.values())
        await keep(db, plans)

    patched.setattr(store, "add_effects", add_effects)
    patched.setattr(store, "keep_plans", keep_plans)


async def _live_through(site: Site, chance: Random, *, dry_run: bool) -> None:
    """Let everything happen that can: answers, none, appeals, people who come back, lose their manager or a right."""
    numbers = range(HOLDERS)
    users = site.org.users

    def some(share: float) -> list[int]:
        return [number for number in numbers if chance.random() < share]

    for number in numbers:
        for record in range(chance.choice((0, 0, 1, 3))):
            name, kind = f"record-{number}-{record}", chance.choice(("Case", "Lead"))
            site.org.records[name] = FakeRecord(name, kind, holder_of(case_id(number)))
    await site.tell(*(flagged(number, dry_run=dry_run) for number in numbers), source="scanner")
    await site.tell(*(delivered(number) for number in numbers))
    answers = {number: chance.choice(("keep", "revoke", "revoke", "revoke", "silent", "silent")) for number in numbers}
    await site.tell(*(decided(number, answer) for number, answer in answers.items() if answer != "silent"))
    for number in some(0.15):
        users[holder_of(case_id(number))].last_used_at = site.clock.now()
    for number in some(0.1):
        users[holder_of(case_id(number))].queue = "Support"
    await site.act()
    site.clock.advance(14 * DAY)
    await site.act()
    await site.tell(*(decided(number, "keep", "holder") for number in some(0.2)))
    await site.act()
    for number in some(0.1):
        users[holder_of(case_id(number))].exempt = "on the list since Monday"
    site.clock.advance(3 * DAY)
    await site.tell(*(decided(number, "keep", "holder") for number in some(0.1)))
    await site.act()
    site.clock.advance(4 * DAY)
    await site.once("timers")
    await site.once("act")
    # Checked, and not yet handed over: nobody is left to take over from some.
    for number in numbers[::2]:
        users[holder_of(case_id(number))].manager_id = None
    await site.act()
    for number in numbers:
        users[holder_of(case_id(number))].manager_id = "005M"
    await _order(site, [(number, Retry("op")) for number in some(0.5)])
    await _order(site, [(number, Reactivate("op", "needed")) for number in some(0.2)])
    await site.act()


async def _order(site: Site, orders: Sequence[tuple[int, Any]]) -> None:
    async with site.database.unit() as unit:
        await submit(unit, [Submission(case_id(number), command, actor="op") for number, command in orders])


async def _read(site: Site, trace: Trace) -> None:
    for number in range(HOLDERS):
        for moment in await site.history(case_id(number)):
            entry = moment.link.entry
            trace.steps.append((entry.case_id, entry.command, entry.accepted, entry.before, entry.after))
    async with site.database.reading() as db:
        bodies = list((await db.exec_driver_sql("SELECT body FROM outbox ORDER BY seq")).scalars())
    for part in envelope.split(envelope.join(bodies)):
        assert isinstance(part, Received)
        event: Any = part.data
        trace.said.append(
            (event.case_id, msgspec.structs.replace(event, dry_run=False) if hasattr(event, "dry_run") else event)
        )
    trace.effects.sort(key=lambda effect: effect[0])
    trace.plans.sort()
    trace.said.sort(key=lambda said: said[0])


@pytest.mark.parametrize("seed", [1, 2])
async def test_a_dry_run_intends_what_a_live_run_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    live, done = await play(tmp_path, seed, dry_run=False, monkeypatch=monkeypatch)
    dry, nothing = await play(tmp_path, seed, dry_run=True, monkeypatch=monkeypatch)
    assert nothing == []
    assert dry == live
    assert dry.intended() == written(done), "what was intended dry is what the live org's own log holds"
    assert {after for *_, after in live.steps} >= STATES_MET, "the history has little in it"


def _skips_the_check(patched: pytest.MonkeyPatch) -> None:
    check = Actions._check

    async def checked(self: Actions, claimed: Any, reader: Any) -> dict[str, Outcome]:
        if not claimed[0].case.policy.dry_run:
            return await check(self, claimed, reader)
        return {effect.id: Answer(SeatChecked("clear", "planted"), "") for effect in claimed}

    patched.setattr(Actions, "_check", checked)


def _plans_no_hand_over(patched: pytest.MonkeyPatch) -> None:
    plan = Actions._plan

    async def planned(self: Actions, claimed: Any, reader: Any) -> Any:
        if not claimed[0].case.policy.dry_run:
            return await plan(self, claimed, reader)
        return {effect.id: {"successor": None, "records": {}} for effect in claimed}, {}

    patched.setattr(Actions, "_plan", planned)


def _counts_no_records(patched: pytest.MonkeyPatch) -> None:
    hand_over = Actions._hand_over

    async def handed_over(self: Actions, claimed: Any, reader: Any, actor: Any) -> dict[str, Outcome]:
        outcomes = await hand_over(self, claimed, reader, actor)
        if actor is not None:
            return outcomes
        return {
            effect: Answer(RecordsHandedOver(0), "planted")
            if isinstance(outcome, Answer) and isinstance(outcome.command, RecordsHandedOver)
            else outcome
            for effect, outcome in outcomes.items()
        }

    patched.setattr(Actions, "_hand_over", handed_over)


@pytest.mark.parametrize("plant", [_skips_the_check, _plans_no_hand_over, _counts_no_records])
async def test_a_dry_run_that_does_otherwise_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, plant: Callable[[pytest.MonkeyPatch], None]
) -> None:
    with monkeypatch.context() as patched:
        plant(patched)
        live, _ = await play(tmp_path, 1, dry_run=False, monkeypatch=monkeypatch)
        dry, _ = await play(tmp_path, 1, dry_run=True, monkeypatch=monkeypatch)
    assert dry != live
