"""Running effects: the only code that acts on accounts.

An effect is claimed in one transaction, run with none open, and answered with a command in another. Removing the
effect's row and taking its answer are one transaction, so that an effect which two processes ran (one of them
stopped past its lease) is answered once; that it had its effect once is the connector's promise: it reads before
it writes. The lease is prolonged while the connected system takes its time, and looked at again right before
anything is written. A step that waited too long since its check is checked again first. Effects of one connection
and kind are run together, because the systems behind charge per call; a few connections are worked on at once, so that
one whose system is slow does not hold up the others. What takes something away needs a permit, taken in the
transaction that claims it; the kill switch is read there, and again right before anything is written.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Final

import msgspec
from sqlalchemy.ext.asyncio import AsyncConnection

from reclaim.common.clock import Clock
from reclaim.common.contracts import UsageQuestioned
from reclaim.common.db import Database, is_outage
from reclaim.common.errors import Permanent, Transient
from reclaim.common.security import Sealer
from reclaim.common.timing import backoff, wall_milliseconds
from reclaim.connectors import checks, ports
from reclaim.connectors.ports import (
    ActionResult,
    ConnectionProfile,
    Connectors,
    Done,
    Downgrade,
    Grants,
    HandedOver,
    Known,
    Refused,
    SeatActor,
    SeatReader,
    SeatRecord,
    Stopped,
    Survey,
    Transfer,
    TryLater,
)
from reclaim.lifecycle import brake_gate, brake_store, calendar, drift_store, store
from reclaim.lifecycle.brakes import STEP_OF, Limits, stopping
from reclaim.lifecycle.domain import (
    ASKED,
    ActionFailed,
    Case,
    Command,
    DayOff,
    Effect,
    RecordsHandedOver,
    SeatChecked,
    SeatDeactivated,
    SeatDowngraded,
    SeatFrozen,
    SeatGivenBack,
    SeatUnfrozen,
    TakenLate,
)
from reclaim.lifecycle.store import Claimed
from reclaim.lifecycle.submit import Submission, submit

log = logging.getLogger(__name__)

TOGETHER: Final = 200
"""Effects run together; the most records that one Salesforce collection call takes."""

CONNECTIONS_AT_ONCE: Final = 4
"""Connections that one process works on at the same time."""

ATTEMPTS: Final = 40
"""Attempts before a person is called: about five hours, so that an outage of a morning passes by itself."""

LONGEST_WAIT: Final = 600.0
"""Seconds between the later attempts."""

ASK_AGAIN: Final = 5.0
"""Seconds after which the scanner is asked anew whether a seat is used, if it did not answer; doubling."""

CHECK_HOLDS: Final = timedelta(minutes=15)
"""How long after its check a step may still be taken without another one."""

LOOK_AGAIN: Final = 1_000
"""Milliseconds for which a look at lease, kill switch and appeals holds, between the parts of one action."""

CHECKED: Final = frozenset(STEP_OF)
"""The effects that take something away."""

RECLAIMS: Final = frozenset({Effect.HAND_OVER, Effect.DEACTIVATE, Effect.DOWNGRADE})
"""The effects that a rule may forbid on some days."""

UNSURE: Final = frozenset({Effect.FREEZE, Effect.DEACTIVATE, Effect.DOWNGRADE})
"""The effects that are known to have happened or not only when they were answered."""

NOTED: Final = UNSURE | {Effect.UNFREEZE}
"""The effects of which it is noted, before they are sent, that they may be: an answer means less to a later attempt."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What an effect led to: a command for its case, with the evidence for the record.

    `changed`: something was written that was not so before.
    """

    command: Command
    evidence: str
    changed: bool = False


@dataclass(frozen=True, slots=True)
class Failed:
    """It cannot go on. An attempt that got so far may have sent the step: the case then stands in doubt about it."""

    reason: str
    remedy: str


@dataclass(frozen=True, slots=True)
class Later:
    """It is not known to have happened, or not to its end; the effect is to be tried again.

    `moved` counts records that were handed over by then, for when it is not.
    """

    reason: str
    moved: int = 0


@dataclass(frozen=True, slots=True)
class Asked:
    """Whether the seat is used has to be judged by the scanner first; the effect is tried again with its answer."""

    question: UsageQuestioned


@dataclass(frozen=True, slots=True)
class Held:
    """The kill switch was engaged before anything was written; the effect waits, and no attempt is counted."""

    reason: str


Outcome = Answer | Failed | Later | Asked | Held

SUCCESS: Final[Mapping[Effect, Command]] = {
    Effect.FREEZE: SeatFrozen(),
    Effect.UNFREEZE: SeatUnfrozen(),
    Effect.DEACTIVATE: SeatDeactivated(),
    Effect.DOWNGRADE: SeatDowngraded(),
    Effect.REACTIVATE: SeatGivenBack(),
}


class Actions:
    """Runs the effects of all connections. Keeps connectors open between runs, one pair a connection."""

    def __init__(
        self,
        database: Database,
        connectors: Connectors,
        sealer: Sealer,
        clock: Clock,
        limits: Limits = Limits(),  # noqa: B008  it is frozen
    ) -> None:
        self._limits = limits
        self._database = database
        self._connectors = connectors
        self._sealer = sealer
        self._clock = clock
        self._readers: dict[tuple[str, int], SeatReader] = {}
        self._actors: dict[tuple[str, int], SeatActor] = {}
        self._claiming = asyncio.Lock()
        self._working_on: dict[int, str] = {}

    async def run(self, lane: int = 0) -> bool:
        """Run the effects that are due and alike; return whether there were any.

        A process has `CONNECTIONS_AT_ONCE` lanes. Each takes a connection that no other lane is working on, and looks
        for one only while all the lanes before it have theirs.
        """
        if not all(earlier in self._working_on for earlier in range(lane)):
            return False
        async with self._claiming:
            others = {connection for other, connection in self._working_on.items() if other != lane}
            async with self._database.unit() as unit:
                claimed = await store.claim_effects(unit.db, most=TOGETHER, avoiding=others)
                if not claimed:
                    return False
                claimed = await brake_gate.admit(unit, claimed, self._limits)
                if not claimed:
                    return True
                connection_id = claimed[0].case.seat.connection_id
                connection = await store.connection(unit.db, connection_id)
            self._working_on[lane] = connection_id
        try:
            await self._work_off(claimed, connection)
        finally:
            self._working_on.pop(lane, None)
        return True

    async def _work_off(self, claimed: Sequence[Claimed], connection: Any) -> None:
        """Run claimed effects, and give the answers to their cases."""
        async with self._leased(claimed):
            outcomes = await self._perform(claimed, connection)
        # What another process took over meanwhile has no outcome here.
        answers = [(effect, outcomes[effect.id]) for effect in claimed if effect.id in outcomes]
        async with self._database.unit() as unit:
            given_up = [
                effect.id
                for effect, outcome in answers
                if effect.kind in UNSURE
                and isinstance(outcome, Failed | Later | Asked)
                and (isinstance(outcome, Failed) or effect.attempts >= ATTEMPTS)
            ]
            sent = await store.may_be_sent(unit.db, given_up)
            final = [(effect, self._final(effect, outcome, sent=effect.id in sent)) for effect, outcome in answers]
            # What it took for somebody else's doing may be what an attempt after it did.
            doubtful = {
                effect.id: effect.attempts
                for effect, outcome in final
                if effect.kind in UNSURE and isinstance(outcome, Answer) and outcome.command != SUCCESS[effect.kind]
            }
            if doubtful:
                overtaken = doubtful.keys() - await store.prolong_leases(unit.db, doubtful)
                final = [(effect, outcome) for effect, outcome in final if effect.id not in overtaken]
            ours = await store.drop_effects(unit.db, [e.id for e, outcome in final if isinstance(outcome, Answer)])
            # This process was stopped for longer than its lease, right before its call. It alone knows what that did.
            late = [
                Submission(effect.case.id, TakenLate(effect.kind), evidence=outcome.evidence)
                for effect, outcome in final
                if isinstance(outcome, Answer) and outcome.changed and effect.kind in UNSURE and effect.id not in ours
            ]
            await submit(
                unit,
                [
                    Submission(effect.case.id, outcome.command, evidence=outcome.evidence)
                    for effect, outcome in final
                    if isinstance(outcome, Answer) and effect.id in ours
                ]
                + late,
            )
            await store.put_off_effects(
                unit.db,
                [
                    (e, int(1000 * backoff(e.attempts, first=0.5, most=LONGEST_WAIT)), outcome.reason)
                    for e, outcome in final
                    if isinstance(outcome, Later)
                ],
            )
            asked = [(e, outcome.question) for e, outcome in final if isinstance(outcome, Asked)]
            unit.emit(*(question for _effect, question in asked))
            await store.put_off_effects(
                unit.db,
                [(e, int(1000 * backoff(e.attempts, first=ASK_AGAIN, most=LONGEST_WAIT)), ASKED) for e, _ in asked],
            )
            await brake_store.hold_effects(
                unit.db, [(e, outcome.reason) for e, outcome in final if isinstance(outcome, Held)]
            )

    def _final(self, effect: Claimed, outcome: Outcome, *, sent: bool) -> Outcome:
        if isinstance(outcome, Answer | Held):
            return outcome
        if isinstance(outcome, Failed):
            return Answer(ActionFailed(outcome.reason, outcome.remedy, unsure=sent), outcome.reason)
        if isinstance(outcome, Asked):
            if effect.attempts < ATTEMPTS:
                return outcome
            outcome = Later("the scanner does not say whether the seat is used")
        log.warning("case %s: %s is tried again: %s", effect.case.id, effect.kind.value, outcome.reason)
        if effect.attempts < ATTEMPTS:
            return outcome
        return Answer(
            ActionFailed(
                f"{effect.kind.value} did not succeed in {effect.attempts} attempts: {outcome.reason}",
                "Find out why the connected system does not answer (test the connection), then retry.",
                moved=outcome.moved,
                unsure=sent,
            ),
            outcome.reason,
        )

    async def _perform(self, claimed: Sequence[Claimed], connection: Any) -> dict[str, Outcome]:
        if connection is None:
            return dict.fromkeys((e.id for e in claimed), Later("the connection's profile has not arrived here yet"))
        if connection.removed:
            remedy = "Add the connection again, or close the case by keeping the seat."
            gone = Failed(f"The connection {connection.name!r} was removed.", remedy)
            return dict.fromkeys((effect.id for effect in claimed), gone)
        try:
            return await self._run(claimed, connection)
        except Transient as error:
            return dict.fromkeys((effect.id for effect in claimed), Later(str(error)))
        except Permanent as error:
            remedy = "Mend the connection (its test says what is wrong), then retry."
            return dict.fromkeys((effect.id for effect in claimed), Failed(str(error), remedy))
        except Exception as error:
            if is_outage(error):
                raise
            if len(claimed) > 1:
                # One case with an error nobody foresaw must not hold up those that share its calls.
                async with self._database.reading() as db:
                    sent = await store.may_be_sent(db, [effect.id for effect in claimed])
                outcomes: dict[str, Outcome] = {}
                for effect in claimed:
                    again = replace(effect, tried=effect.tried or effect.id in sent)
                    outcomes |= await self._perform([again], connection)
                return outcomes
            log.exception("case %s: %s met an error on our side", claimed[0].case.id, claimed[0].kind.value)
            return {claimed[0].id: Later(f"an error on our side: {type(error).__name__}")}

    @asynccontextmanager
    async def _leased(self, claimed: Sequence[Claimed]) -> AsyncIterator[None]:
        """Prolong the leases for as long as the block lasts, however long the connected system takes."""

        async def prolong() -> None:
            while True:
                await asyncio.sleep(store.LEASE / 4000)
                try:
                    await self._still_ours(claimed)
                except Exception as error:
                    # The leases may run out, which is found before anything more is written.
                    log.warning("the leases of %d effects were not prolonged: %s", len(claimed), error)

        prolonging = asyncio.create_task(prolong())
        try:
            yield
        finally:
            prolonging.cancel()
            await asyncio.gather(prolonging, return_exceptions=True)

    async def _still_ours(self, claimed: Sequence[Claimed]) -> list[Claimed]:
        """Return the effects that no other process has claimed or answered since, with their leases prolonged."""
        async with self._database.unit() as unit:
            ours = await store.prolong_leases(unit.db, {effect.id: effect.attempts for effect in claimed})
        return [effect for effect in claimed if effect.id in ours]

    async def _cleared(self, claimed: Sequence[Claimed]) -> tuple[list[Claimed], dict[str, Outcome]]:
        """Return, right before something is written, what may be written now, and what a kill switch or appeal stops.

        Of what is known to have happened only when it was answered, it is noted that it may have happened. If the
        kill switch cannot be read this raises, and nothing is written.
        """
        async with self._database.unit() as unit:
            ours = await store.prolong_leases(unit.db, {effect.id: effect.attempts for effect in claimed})
            claimed = [effect for effect in claimed if effect.id in ours]
            held: dict[str, Outcome] = {}
            if claimed and claimed[0].kind in CHECKED:
                # Reading may have taken minutes, in which somebody asked to keep the seat.
                cases = await store.load(unit.db, [effect.case.id for effect in claimed])
                # A step that its case has gone on without is void: not taken, and dropped when it is claimed next.
                claimed = [effect for effect in claimed if cases[effect.case.id].state is effect.case.state]
                claimed = [replace(effect, case=cases[effect.case.id]) for effect in claimed]
                switches = await brake_store.engaged(unit.db)
                stopped = {effect.id: stopping(switches, effect.case) for effect in claimed}
                held = {effect_id: Held(f"{switch}") for effect_id, switch in stopped.items() if switch is not None}
                held |= _appealed_meanwhile(claimed)
            if claimed and claimed[0].kind is Effect.UNFREEZE:
                held |= await _frozen_for_another_case(unit.db, claimed)
            cleared = [effect for effect in claimed if effect.id not in held]
            await store.mark_sent(unit.db, {effect.id for effect in cleared if effect.kind in NOTED})
        return cleared, held

    def _guarded(self, actor: SeatActor, cleared: Sequence[Claimed]) -> SeatActor:
        """Return an actor that looks again before each part of what takes away, and before it sends anything anew.

        All of a batch stops with one of its cases: tried again, each is looked at by itself.
        """
        if not cleared or cleared[0].kind not in CHECKED:
            return actor
        looked = wall_milliseconds()

        async def may_write() -> None:
            nonlocal looked
            if abs(wall_milliseconds() - looked) < LOOK_AGAIN:
                return
            try:
                still, stops = await self._cleared(cleared)
            except Exception as error:
                raise Stopped("whether it may still be sent could not be read") from error
            if len(still) < len(cleared):
                why = next((f": {stop.reason}" for stop in stops.values() if isinstance(stop, Held)), "")
                raise Stopped(f"it was stopped before it was sent{why}")
            looked = wall_milliseconds()

        return actor.guarded(may_write)

    async def _run(self, claimed: Sequence[Claimed], connection: Any) -> dict[str, Outcome]:
        kind = claimed[0].kind
        reader = self._reader(connection)
        if kind is Effect.CHECK:
            return await self._check(claimed, reader)
        outcomes: dict[str, Outcome] = self._days_off(claimed)
        claimed = [effect for effect in claimed if effect.id not in outcomes]
        if kind in CHECKED:
            outcomes |= _appealed_meanwhile(claimed)
            claimed = [effect for effect in claimed if effect.id not in outcomes]
            outcomes |= await self._check_again(claimed, reader)
            claimed = [effect for effect in claimed if effect.id not in outcomes]
        # A dry run never gets further than this line with anything that could write.
        actor = None if not claimed or claimed[0].case.policy.dry_run else self._actor(connection)
        if kind is Effect.HAND_OVER:
            return outcomes | await self._hand_over(claimed, reader, actor)
        if actor is None:
            return outcomes | {e.id: Answer(SUCCESS[kind], f"dry run: would {kind.value} here") for e in claimed}
        cleared, held = await self._cleared(claimed)
        return outcomes | held | await self._act(cleared, kind, self._guarded(actor, cleared))

    async def _act(self, claimed: Sequence[Claimed], kind: Effect, actor: SeatActor) -> dict[str, Outcome]:
        act = {
            Effect.FREEZE: actor.freeze,
            Effect.UNFREEZE: actor.unfreeze,
            Effect.DEACTIVATE: actor.deactivate,
            Effect.REACTIVATE: actor.reactivate,
        }
        # Whose deactivation or downgrade got no answer may be inactive or moved; giving back whole reads all first.
        whole = [e for e in claimed if kind is Effect.UNFREEZE and e.case.unsure and e.case.frozen_at is not None]
        images = {
            effect.case.seat.holder.id: msgspec.convert(effect.case.before, Grants)
            for effect in claimed
            if effect.case.before is not None and (kind is Effect.REACTIVATE or effect in whole)
        }
        whole = [effect for effect in whole if effect.case.seat.holder.id not in images]
        rest = [effect for effect in claimed if effect not in whole and effect.case.seat.holder.id not in images]
        results: dict[str, ActionResult] = dict(await actor.upgrade(images)) if images else {}
        if kind is Effect.DOWNGRADE:
            results |= await actor.downgrade([_downgrade(effect.case) for effect in rest])
        else:
            for how, effects in ((Effect.REACTIVATE, whole), (kind, rest)):
                if effects:
                    results |= await act[how]([effect.case.seat.holder.id for effect in effects])
        outcomes: dict[str, Outcome] = {}
        for effect in claimed:
            tried = effect.case.unsure or effect.tried
            match results.get(effect.case.seat.holder.id):
                case Done(changed=False) | Refused(ports.FROZEN_BY_ANOTHER) if kind is Effect.FREEZE and not tried:
                    # Undone at an appeal, or taken for the beginning of grace, it would be somebody else's freeze.
                    outcomes[effect.id] = _found("exempt", "somebody else froze the account since it was checked")
                case Done(changed, before):
                    evidence = msgspec.json.encode({"changed": changed, "before": before}).decode()
                    # That there was nothing left to undo may be what the attempt before this one did.
                    undone = SeatUnfrozen(changed=changed or effect.tried)
                    command = undone if kind is Effect.UNFREEZE else SUCCESS[kind]
                    outcomes[effect.id] = Answer(command, evidence, changed=changed)
                case Refused(code, message, remedy):
                    # Of a downgrade that is refused, a part may have been done.
                    unsure = kind is Effect.DOWNGRADE or (kind in UNSURE and effect.tried)
                    foreign = code == ports.FROZEN_BY_ANOTHER
                    unseen = code == ports.NO_SUCH_ACCOUNT
                    failed = ActionFailed(f"{code}: {message}", remedy, unsure=unsure, foreign=foreign, unseen=unseen)
                    outcomes[effect.id] = Answer(failed, message)
                case TryLater(reason):
                    outcomes[effect.id] = Later(reason)
                case None:
                    outcomes[effect.id] = Later("the connector gave no result for this holder")
        return outcomes

    def _days_off(self, claimed: Sequence[Claimed]) -> dict[str, Outcome]:
        """Return the steps that waited into a day on which their rule frees no seat; records half moved go on."""
        now = self._clock.now()
        return {
            effect.id: Answer(DayOff(tried=effect.kind in UNSURE and effect.tried), "")
            for effect in claimed
            if effect.kind in RECLAIMS and effect.plan is None and not calendar.may_reclaim(effect.case.policy, now)
        }

    # Checking again.

    async def _check(self, claimed: Sequence[Claimed], reader: SeatReader) -> dict[str, Outcome]:
        installed = [effect for effect in claimed if effect.case.seat.devices]
        claimed = [effect for effect in claimed if not effect.case.seat.devices]
        outcomes = {effect.id: self._checked_on_devices(effect.case) for effect in installed}
        if not claimed:
            return outcomes
        holders = [effect.case.seat.holder.id for effect in claimed]
        longest = max(effect.case.policy.inactive_days for effect in claimed)
        began = self._clock.now()
        records = await reader.seats_of(holders)
        survey = await reader.survey(holders, since=began - timedelta(days=longest))
        if abs(self._clock.now() - began) > CHECK_HOLDS:
            # This process was stopped, or the answer hung: what was read first may be days old.
            late = Later("the check took too long to be believed")
            return outcomes | dict.fromkeys((effect.id for effect in claimed), late)
        outcomes |= {e.id: self._checked(e, records.get(e.case.seat.holder.id), survey) for e in claimed}
        return await self._with_images(claimed, outcomes, reader)

    async def _with_images(
        self, claimed: Sequence[Claimed], outcomes: dict[str, Outcome], reader: SeatReader
    ) -> dict[str, Outcome]:
        """Read what the downgrades that these checks clear will have to put back, before anything is taken away."""
        clear = {
            effect.case.seat.holder.id: (effect.id, outcome)
            for effect in claimed
            if effect.kind is Effect.CHECK
            and effect.case.method == "downgrade"
            and effect.case.frozen_at is not None
            and isinstance(outcome := outcomes[effect.id], Answer)
            and isinstance(outcome.command, SeatChecked)
            and outcome.command.found == "clear"
        }
        grants = await reader.grants(list(clear)) if clear else {}
        for holder, (effect_id, outcome) in clear.items():
            if holder not in grants:
                outcomes[effect_id] = Later("what the holder's licence rests on could not be read")
                continue
            image = msgspec.to_builtins(grants[holder])
            assert isinstance(outcome.command, SeatChecked)
            command = msgspec.structs.replace(outcome.command, before=image)
            outcomes[effect_id] = Answer(command, outcome.evidence)
        return outcomes

    async def _check_again(self, claimed: Sequence[Claimed], reader: SeatReader) -> dict[str, Outcome]:
        """Check again what was checked too long ago, and return the outcomes of those that are not clear any more."""
        now = self._clock.now()
        stale = [e for e in claimed if e.case.checked_at is None or abs(now - e.case.checked_at) > CHECK_HOLDS]
        if not stale:
            return {}
        return {
            effect_id: outcome
            for effect_id, outcome in (await self._check(stale, reader)).items()
            if not (
                isinstance(outcome, Answer)
                and isinstance(outcome.command, SeatChecked)
                and outcome.command.found == "clear"
            )
        }

    def _checked(self, effect: Claimed, record: SeatRecord | None, survey: Survey) -> Outcome:
        case = effect.case
        tried = case.unsure or (effect.kind in UNSURE and effect.tried)
        outcome = self._compared(case, record, survey, tried=tried and not case.policy.dry_run)
        match outcome:
            case Answer(SeatChecked() as command, evidence) if tried:
                return Answer(msgspec.structs.replace(command, tried=True), evidence)
            case Answer(ActionFailed() as command, evidence) if tried:
                # A check that failed says nothing of the attempt before it: the doubt about that one stays.
                return Answer(msgspec.structs.replace(command, unsure=True), evidence)
        return outcome

    def _compared(self, case: Case, record: SeatRecord | None, survey: Survey, *, tried: bool) -> Outcome:
        now = self._clock.now()
        after_freeze = case.frozen_at is not None and not case.policy.dry_run
        target = case.policy.downgrade_to
        if record is not None and after_freeze and record.one_switch and not record.active:
            # Frozen by the very switch that frees the seat: to be off is to be as we left it.
            record = replace(record, active=True)
        if record is not None and after_freeze and tried and target is not None and record.product == target.product:
            return _found("clear", "the downgrade that was tried before has happened")
        if record is not None and not record.active and after_freeze and tried:
            return _found("clear", "the deactivation that was tried before has happened")
        if record is None and after_freeze:
            return _found("unseen", "The connection does not show the account any more that Reclaim froze.")
        if record is None or not record.active:
            return _found("gone", "the account is no longer active")
        if survey.misses(record.holder.id):
            return Later(checks.OUT_OF_SIGHT)
        if not case.seat.covers(record.product):
            return _found("exempt", f"the holder now has {record.product_name} instead of {case.seat.product_name}")
        if after_freeze:
            if not isinstance(survey.frozen, Known):
                return Later(f"whether the account is frozen could not be read: {survey.frozen.reason}")
            if record.holder.id not in survey.frozen.value:
                return _found("changed", "the account is not frozen any more, and it was not us who unfroze it")
        proven = None
        if case.policy.usage is None and not checks.is_unused(record, inactive_days=case.policy.inactive_days, now=now):
            last = record.last_used_at.isoformat() if record.last_used_at else "never"
            return _found("active", f"used since it was flagged: last sign-in {last}")
        if case.policy.usage is not None or case.policy.ask_scanner:
            kept = isinstance(survey.last_seen_elsewhere, Known)
            said = self._told(case, record.last_used_at, read=kept, department=record.department)
            if not isinstance(said, str):
                return said
            proven = said if case.policy.usage is not None else None
        findings = checks.evaluate(
            record,
            survey,
            now=now,
            inactive_days=case.policy.inactive_days,
            warn_only=case.policy.warn_only,
            young_days=case.policy.young_days,
            frozen_by_us=(record.holder.id,) if after_freeze or tried else (),
            successor=case.policy.hand_over_to,
            proven_unused=proven,
        )
        for finding in findings:
            if finding.outcome == "unknown":
                return Later(f"the check {finding.check} could not be made: {finding.evidence}")
        for finding in findings:
            if finding.outcome == "skip":
                found = "active" if finding.check == "active_elsewhere" else "exempt"
                return _found(found, f"{finding.check}: {finding.evidence}")
        evidence = msgspec.json.encode({"checked_at": survey.taken_at, "findings": findings, "use": proven}).decode()
        return Answer(SeatChecked("clear", "checked again: still unused, every safety check passes"), evidence)

    def _checked_on_devices(self, case: Case) -> Outcome:
        """Check installed software: there is no account, only whether it is still there, and unused."""
        said = self._told(case, None, read=False)
        return _found("clear", f"checked again: still unused. {said}") if isinstance(said, str) else said

    def _told(
        self, case: Case, last_used_at: datetime | None, *, read: bool, department: str | None = None
    ) -> Outcome | str:
        """Return what proves that a seat is unused, by its rule's sources of use; else what becomes of the step.

        `read`: the connected system was just asked for the last use, and keeps it.
        """
        now = self._clock.now()
        told = case.told
        later = told is not None and last_used_at is not None and last_used_at > told.asked_at
        if told is None or later or abs(now - told.asked_at) > CHECK_HOLDS:
            return Asked(
                UsageQuestioned(
                    case_id=case.id, asked_at=now, last_used_at=last_used_at, read=read, department=department
                )
            )
        match told.use:
            case "unused":
                return told.reason
            case "used":
                return _found("active", f"used since it was flagged: {told.reason}")
            case "excluded":
                return _found("exempt", f"excluded since it was flagged: {told.reason}")
            case "gone":
                return _found("gone", f"the seat is not there any more: {told.reason}")
            case "unknown":
                return Answer(
                    ActionFailed(
                        f"Whether the seat is still unused is not known: {told.reason}",
                        "Mend the source of use (the scanner lists them), then retry; or keep the seat.",
                    ),
                    told.reason,
                )

    # Handing over.

    async def _hand_over(
        self, claimed: Sequence[Claimed], reader: SeatReader, actor: SeatActor | None
    ) -> dict[str, Outcome]:
        outcomes: dict[str, Outcome] = {}
        plans = {effect.id: effect.plan for effect in claimed if effect.plan is not None}
        unplanned = [effect for effect in claimed if effect.plan is None]
        if unplanned:
            made, failed = await self._plan(unplanned, reader)
            outcomes |= failed
            if made:
                async with self._database.unit() as unit:
                    claims = {effect.id: effect.attempts for effect in unplanned if effect.id in made}
                    ours = await store.prolong_leases(unit.db, claims)
                    # Who comes back after its lease reads what another process has half moved: its plan is too short.
                    made = {effect_id: plan for effect_id, plan in made.items() if effect_id in ours}
                    await store.keep_plans(unit.db, made)
                plans |= made
        transfers = {}
        for effect in claimed:
            plan = plans.get(effect.id)
            if plan is None:
                continue
            if not plan["records"]:
                outcomes[effect.id] = Answer(RecordsHandedOver(0), "no open records")
            elif actor is None:
                count = sum(len(ids) for ids in plan["records"].values())
                outcomes[effect.id] = Answer(RecordsHandedOver(count), f"dry run: would hand over {plan}")
            else:
                holder = effect.case.seat.holder.id
                transfers[effect.id] = Transfer(holder, plan["successor"], plan["records"])
        if transfers and actor is not None:
            cleared, held = await self._cleared([effect for effect in claimed if effect.id in transfers])
            outcomes |= held
            transfers = {effect.id: transfers[effect.id] for effect in cleared}
            results = await self._guarded(actor, cleared).hand_over(list(transfers.values()))
            for effect_id, transfer in transfers.items():
                outcomes[effect_id] = _handed_over(results.get(transfer.holder), plans[effect_id])
        return outcomes

    async def _plan(
        self, claimed: Sequence[Claimed], reader: SeatReader
    ) -> tuple[dict[str, dict[str, Any]], dict[str, Outcome]]:
        """Fix which records go to whom: effect id → plan, and effect id → outcome where nobody can take them."""
        holders = [effect.case.seat.holder.id for effect in claimed]
        found = await reader.open_records(holders)
        named = [to for effect in claimed if (to := effect.case.policy.hand_over_to) is not None]
        records = await reader.seats_of(list(dict.fromkeys([*holders, *named])))
        plans: dict[str, dict[str, Any]] = {}
        failed: dict[str, Outcome] = {}
        for effect in claimed:
            holder = effect.case.seat.holder
            mine = {kind: list(ids) for kind, ids in found.get(holder.id, {}).items() if ids}
            record = records.get(holder.id)
            manager = record.manager if record is not None else None
            successor = effect.case.policy.hand_over_to
            if not mine:
                plans[effect.id] = {"successor": None, "records": {}}
            elif successor is not None and successor != holder.id:
                there = records.get(successor)
                if there is not None and there.active:
                    plans[effect.id] = {"successor": successor, "records": mine}
                else:
                    count = sum(len(ids) for ids in mine.values())
                    failed[effect.id] = Answer(
                        ActionFailed(
                            f"{holder.name} owns {count} open records, and the rule gives them to {successor}, which "
                            "is no active account.",
                            "Activate that account in the connected system, then retry; for cases to come, name "
                            "another one in the rule.",
                        ),
                        msgspec.json.encode(mine).decode(),
                    )
            elif manager is None or not manager.able or manager.person.id == holder.id:
                count = sum(len(ids) for ids in mine.values())
                failed[effect.id] = Answer(
                    ActionFailed(
                        f"{holder.name} owns {count} open records and has no manager who could take them.",
                        f"Give {holder.name} an active manager in the connected system, then retry.",
                    ),
                    msgspec.json.encode(mine).decode(),
                )
            else:
                plans[effect.id] = {"successor": manager.person.id, "records": mine}
        return plans, failed

    # Connectors.

    def _profile(self, connection: Any) -> ConnectionProfile:
        return ConnectionProfile(
            connection.id,
            connection.name,
            connection.kind,
            connection.settings,
            self._sealer.open(connection.credentials),
        )

    def _reader(self, connection: Any) -> SeatReader:
        key = (connection.id, connection.version)
        if key not in self._readers:
            self._readers[key] = self._connectors.reader(self._profile(connection))
        return self._readers[key]

    def _actor(self, connection: Any) -> SeatActor:
        key = (connection.id, connection.version)
        if key not in self._actors:
            self._actors[key] = self._connectors.actor(self._profile(connection))
        return self._actors[key]

    async def close(self) -> None:
        """Close every connector that was opened."""
        for reader in self._readers.values():
            await reader.close()
        for actor in self._actors.values():
            await actor.close()


def _downgrade(case: Case) -> Downgrade:
    target = case.policy.downgrade_to
    assert target is not None
    return Downgrade(case.seat.holder.id, target.product, target.profile)


async def _frozen_for_another_case(db: AsyncConnection, claimed: Sequence[Claimed]) -> dict[str, Outcome]:
    """Return the freezes left by cases that had ended, and taken over by a later case of the seat since."""
    found: dict[str, Outcome] = {}
    for effect in claimed:
        later = await drift_store.holds_seat_since(db, effect.case) if effect.case.closed_as is not None else None
        if later is not None:
            reason = drift_store.held_since(later)
            found[effect.id] = Answer(ActionFailed(reason, "What is frozen now is that case's.", foreign=True), reason)
    return found


def _appealed_meanwhile(claimed: Sequence[Claimed]) -> dict[str, Outcome]:
    """Return, for each step that an appeal overtook before it was begun, that it is not taken."""
    return {
        effect.id: Answer(
            ActionFailed(
                f"{effect.kind.value} was not begun any more",
                "Nothing is to be done: the appeal is granted.",
                unsure=effect.kind in UNSURE and effect.tried,
            ),
            "the appeal came first",
        )
        for effect in claimed
        if effect.case.appealed_by is not None
    }


def _found(found: Any, evidence: str) -> Answer:
    return Answer(SeatChecked(found, evidence), evidence)


def _handed_over(result: HandedOver | Refused | TryLater | None, plan: Mapping[str, Any]) -> Outcome:
    match result:
        case HandedOver(moved, failed) if not failed:
            count = sum(moved.values())
            evidence = msgspec.json.encode({"moved": moved, "plan": plan}).decode()
            return Answer(RecordsHandedOver(count), evidence)
        case HandedOver(moved, failed):
            some = "; ".join(f"{record}: {why.code}: {why.message}" for record, why in sorted(failed.items())[:5])
            remedies = dict.fromkeys(why.remedy for _record, why in sorted(failed.items()))
            return Answer(
                ActionFailed(
                    f"{len(failed)} open records could not be handed over: {some}",
                    " ".join([*remedies, "Or give these records to somebody in the connected system, then retry."]),
                    moved=sum(moved.values()),
                ),
                msgspec.json.encode({"moved": moved, "failed": failed, "plan": plan}).decode(),
            )
        case Refused(code, message, remedy):
            return Answer(ActionFailed(f"{code}: {message}", remedy), message)
        case TryLater(reason, moved):
            return Later(reason, moved)
        case None:
            return Later("the connector gave no result for this holder")
