"""Where brakes meet cases: admitting claimed effects, and what people do about what was held.

Everything here is one transaction of its caller. Cases are locked first, the connection's brake after them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, cast

from reclaim.common.db import Unit
from reclaim.common.errors import Conflict, Forbidden, NotFound
from reclaim.lifecycle import brake_store, calendar, store
from reclaim.lifecycle.brakes import (
    STEP_OF,
    Ledger,
    Limits,
    Permit,
    Request,
    Scope,
    Step,
    Stop,
    Tripped,
    lifted,
    reserve,
    same_person,
    stopping,
)
from reclaim.lifecycle.domain import ENDED, BrakeTripped, Case, Effect, Retry
from reclaim.lifecycle.store import Claimed
from reclaim.lifecycle.submit import Submission, submit

KILLED_REMEDY: Final = "Nothing: the account is restored. The kill switch stops what takes away, never what gives back."

OUT_OF_HOURS: Final = "the rule freezes nobody at this hour"
OUT_OF_HOURS_WAIT: Final = 60_000
"""Milliseconds until an effect that came out of hours is looked at again."""

NOT_FROZEN: Final = "Nothing: the account was not frozen yet, and is not any more."


async def admit(unit: Unit, claimed: Sequence[Claimed], defaults: Limits) -> list[Claimed]:
    """Return the claimed effects that may be run now; they share connection, kind and dry-run flag.

    What the kill switch holds is put off. What a brake stops leaves its state: the case stands in attention.
    """
    step = STEP_OF.get(claimed[0].kind)
    if step is None:
        return list(claimed)
    switches = await brake_store.engaged(unit.db)
    wanting: list[Claimed] = []
    waiting: list[tuple[Claimed, str]] = []
    out_of_hours: list[tuple[Claimed, str]] = []
    stopped: dict[str, BrakeTripped] = {}
    for effect in claimed:
        switch = stopping(switches, effect.case)
        # A reclaim out of hours goes back into grace instead, with its appeals: see `calendar.may_reclaim`.
        too_early = step == "freeze" and not calendar.may_act(effect.case.policy, unit.now)
        if switch is None and not too_early:
            wanting.append(effect)
        elif effect.case.appealed_by is not None:
            # An appeal waits for the step to answer, and a step that is held would not answer.
            reason, remedy = (OUT_OF_HOURS, NOT_FROZEN) if switch is None else (str(switch), KILLED_REMEDY)
            stopped[effect.case.id] = BrakeTripped(reason, remedy, _unsure(effect))
        elif switch is None:
            out_of_hours.append((effect, OUT_OF_HOURS))
        else:
            waiting.append((effect, str(switch)))
    await brake_store.hold_effects(unit.db, waiting)
    await brake_store.hold_effects(unit.db, out_of_hours, wait=OUT_OF_HOURS_WAIT)
    if wanting:
        stops = await _reserve(unit, wanting, step, defaults)
        by_id = {effect.case.id: effect for effect in wanting}
        for case_id, stop in stops.items():
            stopped[case_id] = BrakeTripped(stop.reason, stop.remedy, _unsure(by_id[case_id]))
    else:
        stops = {}
    await _stop(unit, claimed, stopped, stops)
    return [effect for effect in wanting if effect.case.id not in stopped]


def _unsure(effect: Claimed) -> bool:
    """Tell whether an earlier attempt may have changed the account; handing records over does not touch it."""
    return effect.kind is not Effect.HAND_OVER and effect.tried


async def _reserve(unit: Unit, wanting: Sequence[Claimed], step: Step, defaults: Limits) -> dict[str, Stop]:
    """Take the permits there are, and return what stops the others by case."""
    # What may have been done already comes first: it keeps its place, though its permit is too old to serve again.
    cases = {effect.case.id: effect.case for effect in sorted(wanting, key=lambda effect: not effect.tried)}
    first = wanting[0].case
    await brake_store.lock(unit.db, first.seat.connection_id, dry_run=first.policy.dry_run)
    requests = [brake_store.request_of(case, step) for case in cases.values()]
    ledger = await _ledger(unit, first, requests, defaults)
    verdicts = reserve(requests, ledger)
    permits = [verdict for verdict in verdicts if isinstance(verdict, Permit)]
    await brake_store.add_permits(unit.db, [one for one in permits if one.new], cases, ledger.limits, unit.now)
    await brake_store.renew_permits(unit.db, [one.request for one in permits if not one.new], unit.now)
    return {verdict.request.case_id: verdict for verdict in verdicts if isinstance(verdict, Stop)}


async def _ledger(unit: Unit, case: Case, requests: Sequence[Request], defaults: Limits) -> Ledger:
    """Return what was taken on a case's connection, whose brake the caller has locked."""
    connection_id = case.seat.connection_id
    limits = brake_store.as_limits(await brake_store.limits_of(unit.db, connection_id), defaults)
    dry_run = case.policy.dry_run
    return await brake_store.ledger(
        unit.db, connection_id, dry_run=dry_run, limits=limits, requests=requests, now=unit.now
    )


async def _stop(
    unit: Unit, claimed: Sequence[Claimed], stopped: Mapping[str, BrakeTripped], stops: Mapping[str, Stop]
) -> None:
    if not stopped:
        return
    first = claimed[0].case
    await store.drop_effects(unit.db, [effect.id for effect in claimed if effect.case.id in stopped])
    await submit(unit, [Submission(case_id, command, channel="brake") for case_id, command in stopped.items()])
    now_standing = await store.load(unit.db, list(stops))
    # A case with an appeal is restored instead, and waits for nobody.
    held = [(stop, now_standing[case_id]) for case_id, stop in stops.items() if now_standing[case_id].attention]
    if held:
        await brake_store.hold(unit.db, first.seat.connection_id, held, dry_run=first.policy.dry_run, now=unit.now)


# What people do.


async def set_limits(unit: Unit, connection_id: str, figures: Mapping[str, int], *, by: str, reason: str) -> None:
    """Set a connection's limits.

    Raises:
        NotFound: there is no such connection.
    """
    if await store.connection(unit.db, connection_id) is None:
        raise NotFound(f"There is no connection {connection_id} here. Look it up on the page Brakes.")
    await brake_store.set_limits(unit.db, connection_id, figures, by=by, reason=reason, now=unit.now)


async def _locked_trip(unit: Unit, trip_id: str) -> tuple[Any, list[tuple[Case, str | None]]]:
    """Return an open trip and the cases that it holds, all locked until the transaction ends."""
    seen = await brake_store.trip(unit.db, trip_id)
    if seen is None:
        raise NotFound(f"There is no tripped brake {trip_id}. Look it up on the page Brakes.")
    await store.load(unit.db, [case.id for case, _ in await brake_store.held(unit.db, trip_id)])
    await brake_store.lock(unit.db, seen.connection_id, dry_run=seen.dry_run)
    trip = await brake_store.trip(unit.db, trip_id)
    assert trip is not None
    if trip.closed_at is not None:
        raise Conflict(f"This brake was dealt with already: {trip.closed_how} by {trip.closed_by}.")
    return trip, await brake_store.held(unit.db, trip_id)


async def retry_within_limits(unit: Unit, trip_id: str, *, by: str) -> int:
    """Close a trip and have its cases tried again: they are checked, and count against the limits as any other.

    Returns how many there were.

    Raises:
        NotFound: there is no such trip.
        Conflict: it is closed already, or is a canary, which is confirmed instead.
    """
    trip, held = await _locked_trip(unit, trip_id)
    if trip.cap == "canary":
        raise Conflict("A canary does not end by trying again. Look at its cases, and let the rule go on.")
    await _let_go(unit, trip_id, [case for case, _ in held], by=by, how="tried again within the limits")
    return len(held)


async def _let_go(unit: Unit, trip_id: str, cases: Sequence[Case], *, by: str, how: str, evidence: str = "") -> None:
    await brake_store.close_trip(unit.db, trip_id, by=by, how=how, now=unit.now)
    await _retry(unit, cases, by=by, evidence=evidence or how)


async def _retry(unit: Unit, cases: Sequence[Case], *, by: str, evidence: str) -> None:
    await submit(
        unit, [Submission(case.id, Retry(by), actor=by, channel="console", evidence=evidence) for case in cases]
    )


async def ask_override(unit: Unit, trip_id: str, *, by: str, reason: str) -> str:
    """Ask for the cases that a trip holds right now, exactly these, to be let through; return the override's id.

    Raises:
        NotFound: there is no such trip.
        Conflict: it is closed, holds nothing, is a canary, or an override is asked for already.
    """
    trip, held = await _locked_trip(unit, trip_id)
    if trip.cap == "canary":
        raise Conflict("A canary is not overridden. Look at its cases, and let the rule go on.")
    if not held:
        raise Conflict("This brake holds no case any more, so there is nothing to let through.")
    waiting = [one for one in await brake_store.overrides(unit.db, [trip_id]) if one.approved_at is None]
    batch = {override for _, override in held}
    if any(one.id in batch for one in waiting):
        raise Conflict(f"{waiting[0].asked_by} has asked for an override already. Another operator may approve it.")
    return await brake_store.ask_override(
        unit.db, trip_id, [case.id for case, _ in held], by=by, reason=reason, now=unit.now
    )


async def approve_override(unit: Unit, trip_id: str, override_id: str, defaults: Limits, *, by: str) -> int:
    """Let the cases of an override through, once; return how many still stood as they did when it was asked for.

    A canary is not lifted with it: what its rule's first batch has no room for is held by that instead.

    Raises:
        NotFound: there is no such override of this trip.
        Forbidden: the operator asked for it.
        Conflict: it was approved already, or its trip is closed.
    """
    override = await brake_store.override(unit.db, override_id)
    if override is None or override.trip_id != trip_id:
        raise NotFound(f"There is no override {override_id} of this brake. Look it up on the page Brakes.")
    if same_person(override.asked_by, by):
        raise Forbidden("You asked for this override yourself. Another operator has to approve it.")
    trip, held = await _locked_trip(unit, trip_id)
    override = await brake_store.override(unit.db, override_id)
    assert override is not None
    if override.approved_at is not None:
        raise Conflict(f"{override.approved_by} has approved this override already.")
    batch = {case.id: case for case, asked in held if asked == override_id}
    if batch:
        requests = [brake_store.request_of(case, cast("Step", trip.step)) for case in batch.values()]
        ledger = await _ledger(unit, next(iter(batch.values())), requests, defaults)
        granted = [verdict for verdict in reserve(requests, lifted(ledger)) if isinstance(verdict, Permit)]
        await brake_store.add_permits(unit.db, granted, batch, ledger.limits, unit.now, override_id=override_id)
    await brake_store.approve_override(unit.db, override_id, by=by, let_through=len(batch), now=unit.now)
    evidence = f"override {override_id}: asked for by {override.asked_by} ({override.reason}), approved by {by}"
    if len(batch) < len(held):
        # What was held after the override was asked for is not part of it, and the brake stays tripped.
        await _retry(unit, list(batch.values()), by=by, evidence=evidence)
    else:
        how = f"overridden: asked for by {override.asked_by}, approved"
        await _let_go(unit, trip_id, list(batch.values()), by=by, how=how, evidence=evidence)
    return len(batch)


def unfinished(cases: Sequence[Case]) -> list[Case]:
    """Return the cases of a canary that have neither ended nor been frozen."""
    return [case for case in cases if case.state not in ENDED and case.frozen_at is None]


async def confirm_canary(unit: Unit, rule_id: str, version: int, *, by: str) -> int:
    """Let a rule's version go on after its first batch; return how many cases were held by it.

    Raises:
        NotFound: that version has no canary.
        Conflict: it was confirmed already, or some of its cases have neither ended nor been frozen.
    """
    seen = await brake_store.canary(unit.db, rule_id, version)
    if seen is None or not seen.size:
        raise NotFound(f"Version {version} of this rule has no canary. Look it up on the page Brakes.")
    scope: Tripped = ("canary", "freeze", f"{rule_id}/{version}")
    trip = await brake_store.open_trip(unit.db, scope, seen.connection_id)
    held: list[Case] = []
    if trip is not None:
        _, holding = await _locked_trip(unit, trip.id)
        held = [case for case, _ in holding]
    else:
        await brake_store.lock(unit.db, seen.connection_id, dry_run=False)
        if await brake_store.open_trip(unit.db, scope, seen.connection_id) is not None:
            raise Conflict("A case was held by this canary just now. Look again, and confirm then.")
    canary = await brake_store.canary(unit.db, rule_id, version)
    assert canary is not None
    if canary.confirmed_at is not None:
        raise Conflict(f"{canary.confirmed_by} has let this rule go on already.")
    left = unfinished(await brake_store.canary_cases(unit.db, rule_id, version, most=canary.size))
    if left:
        names = ", ".join(case.seat.holder.name for case in left[:5])
        raise Conflict(f"{len(left)} of the first seats are neither frozen nor ended yet: {names}.")
    await brake_store.confirm_canary(unit.db, rule_id, version, by=by, now=unit.now)
    if trip is not None:
        how = f"the canary of version {version} was confirmed"
        await _let_go(unit, trip.id, held, by=by, how=how)
    return len(held)


async def engage(unit: Unit, scope: Scope, target: str, *, by: str, reason: str) -> tuple[Any, bool]:
    """Engage a kill switch; return it, and whether it was not engaged before.

    Raises:
        NotFound: nothing here has that id.
    """
    if scope == "connection" and await store.connection(unit.db, target) is None:
        raise NotFound(f"There is no connection {target} here. Engage the switch for everything if in doubt.")
    if scope == "rule" and target not in await brake_store.rules(unit.db):
        raise NotFound(f"No case of a rule {target} is here. Engage the switch for everything if in doubt.")
    return await brake_store.engage(unit.db, scope, target, by=by, reason=reason, now=unit.now)


async def release(unit: Unit, switch_id: str, *, by: str, reason: str) -> Any:
    """Release a kill switch and return it.

    Raises:
        NotFound: there is none of that id.
        Conflict: it was released already.
    """
    if not await brake_store.release(unit.db, switch_id, by=by, reason=reason, now=unit.now):
        found = await brake_store.switch(unit.db, switch_id)
        if found is None:
            raise NotFound(f"There is no kill switch {switch_id}. List them to find it.")
        raise Conflict(f"{found.released_by} has released this kill switch already.")
    return await brake_store.switch(unit.db, switch_id)
