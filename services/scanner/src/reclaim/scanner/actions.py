"""What operators do, for the API and the pages alike: each function is one thing a person asks for.

Whatever speaks to the connected system does so with no transaction open, and checks afterwards that what it speaks
about is still the same.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID, uuid5

import msgspec

from reclaim.common.contracts import ConnectionChanged, Money
from reclaim.common.db import Unit
from reclaim.common.errors import Conflict, Invalid, Permanent, ReclaimError
from reclaim.common.ids import new_id
from reclaim.connectors.ports import ConnectionProfile, Licence, Members, TestResult
from reclaim.connectors.registry import capabilities, must_be_able, must_hold_seats, validate_profile
from reclaim.scanner import (
    catalog_actions,
    catalog_store,
    desk_store,
    desks,
    exclusion_store,
    groups,
    known_seats,
    profile_store,
    profiles,
    store,
)
from reclaim.scanner.domain import (
    APPLIES_TO,
    INSTALLED,
    TERMS,
    Change,
    Exclusion,
    Exclusions,
    ExclusionTerms,
    Rejected,
    Terms,
    check_profile,
    clean_name,
    clean_reason,
    diff,
    kind_of,
    must_apply,
    next_status,
    read_exclusion,
    read_terms,
)
from reclaim.scanner.jobs import SCAN
from reclaim.scanner.ports import Deps
from reclaim.scanner.store import Connection, Rule, RuleVersion, Run
from reclaim.scanner.suites import pooled
from reclaim.scanner.withdrawals import withdraw

_SCANS: Final = UUID("2f0f3f6e-6d0c-4f57-9a1b-0c9d2b7a4e11")
"""The name space of the ids of scans that were asked for with a key."""


class DoesNotWork(Permanent):
    """A connection was tried and something that it needs is missing; `results` has every single try."""

    title = "The connection does not work"

    def __init__(self, results: Sequence[TestResult], *, then: str) -> None:
        failed = "; ".join(f"{result.what}: {result.detail}" for result in results if not result.ok)
        super().__init__(f"{failed}. {then}".replace("..", "."))
        self.results = tuple(results)


# ------------------------------------------------------------------------------------------------ connections


async def add_connection(
    deps: Deps,
    *,
    name: str,
    kind: str,
    settings: Mapping[str, str],
    credentials: Mapping[str, str],
    prices: Mapping[str, Money] | None = None,
    test: bool = True,
    force: bool = False,
) -> Connection:
    """Add a connection, tested unless the caller says otherwise; its price book starts with the list prices.

    Raises:
        Invalid: something does not fit; nothing was sent anywhere.
        DoesNotWork: the test failed, and `force` was not asked for.
        Conflict: the name is taken.
    """
    settings, credentials = _filled(settings), _filled(credentials)
    check_profile(kind, settings, credentials)
    validate_profile(kind, settings, credentials)
    name = clean_name(name, what="connection")
    profile = ConnectionProfile(id="new", name=name, kind=kind, settings=settings, credentials=credentials)
    then = "Mend this, or add it as it is: with force, in the command --force."
    results = await _tried(deps, profile, test=test, force=force, then=then)
    async with deps.database.unit() as unit:
        added = await store.add_connection(
            unit.db,
            name=name,
            kind=kind,
            settings=settings,
            credentials=deps.sealer.seal(credentials),
            now=unit.now,
        )
        await store.set_prices(unit.db, added.id, kind_of(kind).prices if prices is None else prices)
        await _keep_results(unit, added.id, results)
        await profiles.begin(unit, added, by=profiles.MAKER)
        _announce(unit, added)
        return await store.connection(unit.db, added.id)


async def change_connection(
    deps: Deps,
    connection_id: str,
    *,
    name: str | None = None,
    settings: Mapping[str, str] | None = None,
    credentials: Mapping[str, str] | None = None,
    prices: Mapping[str, Money] | None = None,
    test: bool = True,
    force: bool = False,
) -> Connection:
    """Change what is given and keep the rest. Credentials that are given replace all that were stored.

    Raises:
        Invalid: something does not fit, or the credentials would go to another place than they were entered for.
        DoesNotWork: the test failed, and `force` was not asked for.
        Conflict: the name is taken, or somebody else changed the connection meanwhile.
    """
    async with deps.database.reading() as db:
        before = await store.connection(db, connection_id)
    name = before.name if name is None else clean_name(name, what="connection")
    settings = before.settings if settings is None else _filled(settings)
    fresh = _filled(credentials or {})
    check_profile(before.kind, settings, fresh)
    if not fresh:
        for part in kind_of(before.kind).settings:
            if part.destination and settings.get(part.name) != before.settings.get(part.name):
                raise Invalid(
                    f"{part.label} decides where the credentials are sent: enter the credentials again to change it.",
                    field=part.name,
                )
    results = None
    if fresh or settings != before.settings:
        opened = fresh or deps.sealer.open(before.credentials)
        validate_profile(before.kind, settings, opened)
        profile = ConnectionProfile(id=before.id, name=name, kind=before.kind, settings=settings, credentials=opened)
        results = await _tried(deps, profile, test=test, force=force, then="Mend this, or save it with force.")
    async with deps.database.unit() as unit:
        present = await store.lock_connection(unit.db, connection_id)
        if present.version != before.version:
            raise Conflict("Somebody else changed this connection meanwhile. Look at it again, then change it.")
        changed = await store.change_connection(
            unit.db,
            connection_id,
            name=name,
            settings=settings,
            credentials=deps.sealer.seal(fresh) if fresh else before.credentials,
        )
        if prices is not None:
            await store.set_prices(unit.db, connection_id, prices)
        await _keep_results(unit, connection_id, results)
        _announce(unit, changed)
        return await store.connection(unit.db, connection_id)


async def test_connection(deps: Deps, connection_id: str) -> Connection:
    """Try everything that the connection needs, and keep what was found."""
    async with deps.database.reading() as db:
        connection = await store.connection(db, connection_id)
    results = await _test(deps, connection)
    async with deps.database.unit() as unit:
        present = await store.lock_connection(unit.db, connection_id)
        if present.version == connection.version:
            await store.record_test(unit.db, connection_id, results, unit.now)
        return await store.connection(unit.db, connection_id)


async def remove_connection(deps: Deps, connection_id: str, *, by: str = "an operator") -> None:
    """Forget a connection and its credentials; its rules are paused, and their open cases are taken back.

    What is frozen there cannot be restored without the connection: the lifecycle calls a person to such a case.
    """
    async with deps.database.unit() as unit:
        await profile_store.lock_around(unit.db, connection_id)
        connection = await store.connection(unit.db, connection_id)
        why = f"the connection {connection.name} was removed"
        await profiles.end_all(unit, connection, why=why, by=by)
        cases = await exclusion_store.open_seats(unit.db, connection_id=connection_id)
        withdraw(unit, [(case_id, why) for case_id, _seat in cases], kind="profile_removed", actor=by)
        await store.remove_connection(unit.db, connection_id, unit.now, by=by, why=why)
        unit.emit(
            ConnectionChanged(
                connection_id=connection.id,
                name=connection.name,
                kind=connection.kind,
                settings={},
                credentials="",
                version=connection.version + 1,
                removed=True,
            )
        )


async def licences(deps: Deps, connection_id: str) -> list[Licence]:
    """Return the pools of seats that a connected system has now."""
    async with deps.database.reading() as db:
        connection = await store.connection(db, connection_id)
    async with deps.reader(connection) as reader:
        return sorted(await reader.licences(), key=lambda licence: licence.name)


def _filled(values: Mapping[str, str]) -> dict[str, str]:
    return {name: text for name, value in values.items() if (text := value.strip())}


async def _tried(
    deps: Deps, profile: ConnectionProfile, *, test: bool, force: bool, then: str
) -> list[TestResult] | None:
    # Opening it checks the input, without calling anybody; what does not fit is refused even with `force`.
    async with deps.reader_of(profile) as reader:
        if not test:
            return None
        try:
            results = list(await reader.test())
        except ReclaimError as error:
            results = [TestResult("Connect", ok=False, detail=str(error))]
    if not force and not all(result.ok for result in results):
        raise DoesNotWork(results, then=then)
    return results


async def _test(deps: Deps, connection: Connection) -> list[TestResult]:
    try:
        async with deps.reader(connection) as reader:
            return list(await reader.test())
    except ReclaimError as error:
        return [TestResult("Connect", ok=False, detail=str(error))]


async def _keep_results(unit: Unit, connection_id: str, results: Sequence[TestResult] | None) -> None:
    if results is not None:
        await store.record_test(unit.db, connection_id, results, unit.now)


def _announce(unit: Unit, connection: Connection) -> None:
    unit.emit(
        ConnectionChanged(
            connection_id=connection.id,
            name=connection.name,
            kind=connection.kind,
            settings=dict(connection.settings),
            credentials=connection.credentials,
            version=connection.version,
        )
    )


# ------------------------------------------------------------------------------------------------ rules


async def add_rule(deps: Deps, connection_id: str, raw: Mapping[str, object], *, author: str) -> Rule:
    """Add a rule as a draft.

    Raises:
        Rejected: parts that do not fit, each with what to enter instead.
        Conflict: the name is taken.
    """
    async with deps.database.unit() as unit:
        await catalog_store.lock(unit.db)
        connection = await store.connection(unit.db, connection_id)
        must_hold_seats(connection.kind, connection.settings)
        terms = read_terms(applying(raw, connection.kind))
        must_apply(terms, connection.kind)
        groups.must_tell(terms, connection)
        rule = await store.add_rule(unit.db, connection_id=connection.id, terms=terms, author=author, now=unit.now)
        await catalog_actions.follow(unit, rule, author=author)
        return rule


async def change_rule(
    deps: Deps, rule_id: str, raw: Mapping[str, object], *, author: str, version: int | None = None
) -> Rule:
    """Change what is given of a rule and keep the rest; open cases keep what they were opened under.

    `version` is the one that the author looked at: if it is no longer the current one, nothing is changed.
    """
    async with deps.database.unit() as unit:
        await catalog_store.lock(unit.db)
        before = await store.lock_rule(unit.db, rule_id)
        if version is not None and version != before.version:
            raise Conflict(
                f"Somebody else changed this rule meanwhile: it is at version {before.version}. Look at it again."
            )
        terms = read_terms(
            {**shown_terms(before.terms), **{name: value for name, value in raw.items() if name in TERMS}}
        )
        if terms.applies_to != before.terms.applies_to:
            must_apply(terms, (await store.connection(unit.db, before.connection_id)).kind)
        if terms == before.terms:
            return before
        if terms.filter != before.terms.filter:
            groups.must_tell(terms, await store.connection(unit.db, before.connection_id))
        changed = await store.change_rule(unit.db, before, terms=terms, author=author, now=unit.now)
        await catalog_actions.follow(unit, changed, author=author)
        return changed


async def submit_rule(deps: Deps, rule_id: str, *, by: str | None = None) -> Rule:
    """Have a draft reviewed: it can be previewed, and opens no case until somebody activates it."""
    return await _move(deps, rule_id, "submit", by)


async def activate_rule(deps: Deps, rule_id: str, *, by: str | None = None) -> Rule:
    """Let a rule open cases. `by` is the person whose decision that is.

    Raises:
        DoesNotWork: its connection does not.
        NotOffered: its connection cannot free seats in the rule's way.
        Invalid: the org has no such licence, or the rule names a service desk that is not connected.
        Conflict: it is active already, or was changed meanwhile.
    """
    async with deps.database.reading() as db:
        rule = await store.rule(db, rule_id)
        next_status(rule.status, "activate")
        connection = await store.connection(db, rule.connection_id)
        covered = await catalog_store.covered(db, rule.terms.products, rule_id)
        heard = await desk_store.desks(db)
    desks.must_be_connected(heard, rule.terms)
    must_be_able(connection.kind, connection.settings, rule.terms.reclaim_by)
    results = await _test(deps, connection)
    if not all(result.ok for result in results):
        raise DoesNotWork(results, then="Mend this, test the connection, then activate the rule.")
    await _must_know_groups(deps, connection, groups.named(groups.filters_of(rule.terms, covered)), field="filter")
    there = {licence.product for licence in pooled(await licences(deps, connection.id), covered.suites)}
    if absent := [product for product in rule.terms.products if product not in there]:
        raise Invalid(
            f"The org has no licence {', '.join(absent)}. Edit the rule; the org has: {', '.join(sorted(there))}.",
            field="products",
        )
    async with deps.database.unit() as unit:
        present = await store.lock_rule(unit.db, rule_id)
        if present.version != rule.version:
            raise Conflict("Somebody else changed this rule meanwhile. Look at it again, then activate it.")
        return await store.set_status(unit.db, rule_id, next_status(present.status, "activate"), unit.now, by=by)


async def _must_know_groups(
    deps: Deps, connection: Connection, names: Collection[str], *, field: str
) -> dict[str, Members]:
    """Return who is in some groups; Invalid, saying what to mend, if that is not known of one of them."""
    if not names:
        return {}
    async with deps.reader(connection) as reader:
        found = await groups.read(reader, names)
    if doubts := groups.doubts(found):
        raise Invalid(
            f"Whom the groups of {connection.name} have in them has to be known: {' '.join(doubts.values())}",
            field=field,
        )
    return found


async def pause_rule(deps: Deps, rule_id: str, *, by: str | None = None) -> Rule:
    """Let a rule open no more cases; those that are open go on."""
    return await _move(deps, rule_id, "pause", by)


async def _move(deps: Deps, rule_id: str, action: str, by: str | None) -> Rule:
    async with deps.database.unit() as unit:
        rule = await store.lock_rule(unit.db, rule_id)
        return await store.set_status(unit.db, rule_id, next_status(rule.status, action), unit.now, by=by)


async def withdraw_cases(deps: Deps, rule_id: str, reason: str, *, by: str) -> int:
    """Take every open case of a rule back, and return how many; what was frozen is restored.

    Raises:
        Conflict: the rule is active, and would open them again.
    """
    reason = clean_reason(reason)
    async with deps.database.unit() as unit:
        # A page of cases that is being opened is waited for. Connections are locked before their rules, as in removing.
        await exclusion_store.lock_connections(unit.db, (await store.rule(unit.db, rule_id)).connection_id)
        rule = await store.lock_rule(unit.db, rule_id)
        if rule.status == "active":
            raise Conflict("The rule is active and would flag the seats again: pause it first.")
        cases = await exclusion_store.open_seats(unit.db, rule_id=rule_id)
        why = f"the rule {rule.terms.name} was withdrawn: {reason}"
        return withdraw(unit, [(case_id, why) for case_id, _seat in cases], kind="rule_withdrawn", actor=by)


@dataclass(frozen=True, slots=True)
class Compared:
    """What two versions of a rule say differently."""

    before: RuleVersion
    after: RuleVersion
    changes: tuple[Change, ...]


async def compare_versions(
    deps: Deps, rule_id: str, *, before: int | None = None, after: int | None = None
) -> Compared:
    """Compare two versions of a rule: unless told otherwise, the current one with the one before it.

    Raises:
        NotFound: there is no such rule, or no such version.
    """
    async with deps.database.reading() as db:
        rule = await store.rule(db, rule_id)
        new = await store.rule_version(db, rule_id, rule.version if after is None else after)
        old = await store.rule_version(db, rule_id, max(1, new.version - 1) if before is None else before)
    return Compared(old, new, diff(old.terms, new.terms))


# ------------------------------------------------------------------------------------------------ exclusions


async def add_exclusion(deps: Deps, raw: Mapping[str, object], *, author: str) -> tuple[Exclusion, int]:
    """Exclude seats from being flagged, and take back the open cases they have; return the exclusion and how many.

    Raises:
        Rejected: parts that do not fit, each with what to enter instead.
        Invalid: it is not known who is in the group.
        NotFound: there is no such connection.
        Transient, Permanent: the connected system could not be asked for the group.
    """
    terms = read_exclusion(raw, deps.clock.now())
    members = await _members(deps, terms)
    async with deps.database.unit() as unit:
        if terms.connection_id is not None:
            await store.connection(unit.db, terms.connection_id)
            await known_seats.set_members(unit.db, terms.connection_id, members, unit.now)
        await exclusion_store.lock_connections(unit.db, terms.connection_id)
        added = await exclusion_store.add(unit.db, terms, author=author, now=unit.now)
        cases = await exclusion_store.open_seats(unit.db, connection_id=terms.connection_id)
        kin = await exclusion_store.kin(unit.db, [added])
        names = await exclusion_store.names(unit.db, [added])
        closed = withdraw(
            unit,
            [
                (case_id, evidence)
                for case_id, seat in cases
                if (evidence := Exclusions([added], seat.connection_id, unit.now, kin, names, members).evidence(seat))
                is not None
            ],
            kind="exempted",
            actor=author,
        )
    return added, closed


async def protects_nobody(deps: Deps, added: Exclusion) -> str | None:
    """Return what to say of an exclusion of a person whom nobody knows, which may be a slip of the pen; else None."""
    async with deps.database.reading() as db:
        if added.kind != "person" or await exclusion_store.names_somebody(db, added):
            return None
    return (
        f"No seat that has been read is of {added.value}: nobody is protected yet. See that the id or address is "
        "right; the exclusion is kept, for whoever comes under it."
    )


async def _members(deps: Deps, terms: ExclusionTerms) -> dict[str, Members]:
    """Return who is in the group that an exclusion is about: asked before anything is written, as all is outside."""
    if terms.kind != "group" or terms.connection_id is None:
        return {}
    async with deps.database.reading() as db:
        connection = await store.connection(db, terms.connection_id)
    if "groups" not in capabilities(connection.kind, connection.settings):
        raise Rejected(
            {"kind": f"{connection.name} tells nobody's groups: exclude a department, or the persons by their ids."}
        )
    return await _must_know_groups(deps, connection, {terms.value}, field="value")


async def end_exclusion(deps: Deps, exclusion_id: str, *, by: str) -> Exclusion:
    """End an exclusion before it expires: its seats may be flagged again. Cases that are open go on.

    Raises:
        Conflict: it is over already.
    """
    async with deps.database.unit() as unit:
        return await exclusion_store.end(unit.db, exclusion_id, by=by, now=unit.now)


async def start_scan(
    deps: Deps, rule_id: str, *, dry_run: bool, accept_population: bool, asked_by: str, key: str = ""
) -> Run:
    """Enqueue a scan. `dry_run` rehearses even a rule that is live; it never makes a rule live that is not.

    Who asks again with the same `key` gets the scan that was enqueued the first time, whatever became of it.

    Raises:
        Conflict: the rule is not active.
        Invalid: the same operator asked for another scan with this key.
    """
    # The key is in the id: there is nowhere else to look, and no second run can be stored.
    run_id = str(uuid5(_SCANS, f"{asked_by}\n{key}")) if key else new_id()
    async with deps.database.unit() as unit:
        rule = await store.lock_rule(unit.db, rule_id)
        if key and (earlier := await store.find_run(unit.db, run_id)) is not None:
            if (earlier.rule_id, earlier.dry_run, earlier.accept_population) != (rule_id, dry_run, accept_population):
                raise Invalid("This Idempotency-Key was used for another scan. Take a new one for each.")
            return earlier
        if rule.status != "active":
            status = rule.status.replace("_", " ")
            raise Conflict(f"The rule is {status}: activate it, then scan. A preview works without.")
        run = await store.add_run(
            unit.db,
            rule,
            run_id=run_id,
            asked_by=asked_by,
            dry_run=dry_run,
            accept_population=accept_population,
            now=unit.now,
        )
        unit.wake(SCAN)
        return run


def applying(raw: Mapping[str, object], kind: str) -> dict[str, object]:
    """Return what a rule is to say with what it applies to, which goes without saying on a kind of connection."""
    return {**raw, "applies_to": raw.get("applies_to") or (INSTALLED if kind == INSTALLED else APPLIES_TO)}


def terms_to_preview(raw: Mapping[str, object], kind: str) -> Terms:
    """Return terms to preview, though what does not decide who is flagged may not have been entered yet.

    Raises:
        Rejected: parts that do not fit, or that decide who is flagged and are missing.
    """
    undecided = {"name": "Preview", "route": "email", "decision_days": 1, "on_timeout": "keep", "grace_days": 1}
    given = {**raw, **{name: value for name, value in undecided.items() if not raw.get(name)}}
    return read_terms(applying(given, kind))


def shown_terms(terms: Terms) -> dict[str, Any]:
    """Return what a rule says as a form or an answer shows it."""
    shown: dict[str, Any] = msgspec.to_builtins(terms)
    return shown
