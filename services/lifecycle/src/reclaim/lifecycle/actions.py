"""Running effects: the only code that acts on accounts.

An effect is claimed in one transaction, run with none open, and answered with a command in another. Removing the
effect's row and taking its answer are one transaction, so that an effect which two processes ran (one of them
stopped past its lease) is answered once; that it had its effect once is the connector's promise: it reads before
it writes. Effects of one connection and kind are run together, because the systems behind charge per call.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

import msgspec

from reclaim.common.clock import Clock
from reclaim.common.db import Database
from reclaim.common.errors import Permanent, Transient
from reclaim.common.security import Sealer
from reclaim.common.timing import backoff
from reclaim.connectors import checks
from reclaim.connectors.ports import (
    ConnectionProfile,
    Connectors,
    Done,
    HandedOver,
    Known,
    Refused,
    SeatActor,
    SeatReader,
    SeatRecord,
    Survey,
    Transfer,
    TryLater,
)
from reclaim.lifecycle import store
from reclaim.lifecycle.domain import (
    ActionFailed,
    Case,
    Command,
    Effect,
    RecordsHandedOver,
    SeatChecked,
    SeatDeactivated,
    SeatFrozen,
    SeatGivenBack,
    SeatUnfrozen,
    State,
)
from reclaim.lifecycle.store import Claimed
from reclaim.lifecycle.submit import Submission, submit

log = logging.getLogger(__name__)

TOGETHER: Final = 200
"""Effects run together; the most records that one Salesforce collection call takes."""

ATTEMPTS: Final = 40
"""Attempts before a person is called: about five hours, so that an outage of a morning passes by itself."""

LONGEST_WAIT: Final = 600.0
"""Seconds between the later attempts."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What an effect led to: a command for its case, with the evidence for the record."""

    command: Command
    evidence: str


@dataclass(frozen=True, slots=True)
class Later:
    """Nothing is known to have happened; the effect is to be tried again."""

    reason: str


Outcome = Answer | Later

SUCCESS: Final[Mapping[Effect, Command]] = {
    Effect.FREEZE: SeatFrozen(),
    Effect.UNFREEZE: SeatUnfrozen(),
    Effect.DEACTIVATE: SeatDeactivated(),
    Effect.REACTIVATE: SeatGivenBack(),
}


class Actions:
    """Runs the effects of all connections. Keeps connectors open between runs, one pair a connection."""

    def __init__(self, database: Database, connectors: Connectors, sealer: Sealer, clock: Clock) -> None:
        self._database = database
        self._connectors = connectors
        self._sealer = sealer
        self._clock = clock
        self._readers: dict[tuple[str, int], SeatReader] = {}
        self._actors: dict[tuple[str, int], SeatActor] = {}

    async def run(self) -> bool:
        """Run the effects that are due and alike; return whether there were any."""
        async with self._database.unit() as unit:
            claimed = await store.claim_effects(unit.db, most=TOGETHER)
            if not claimed:
                return False
            connection = await store.connection(unit.db, claimed[0].case.seat.connection_id)
        outcomes = await self._perform(claimed, connection)
        answers = [(effect, outcomes[effect.id]) for effect in claimed]
        async with self._database.unit() as unit:
            final = [(effect, self._final(effect, outcome)) for effect, outcome in answers]
            ours = await store.drop_effects(unit.db, [e.id for e, outcome in final if isinstance(outcome, Answer)])
            await submit(
                unit,
                [
                    Submission(effect.case.id, outcome.command, evidence=outcome.evidence)
                    for effect, outcome in final
                    if isinstance(outcome, Answer) and effect.id in ours
                ],
            )
            await store.put_off_effects(
                unit.db,
                [
                    (e.id, int(1000 * backoff(e.attempts, first=0.5, most=LONGEST_WAIT)), outcome.reason)
                    for e, outcome in final
                    if isinstance(outcome, Later)
                ],
            )
        return True

    def _final(self, effect: Claimed, outcome: Outcome) -> Outcome:
        if isinstance(outcome, Answer):
            return outcome
        log.warning("case %s: %s is tried again: %s", effect.case.id, effect.kind.value, outcome.reason)
        if effect.attempts < ATTEMPTS:
            return outcome
        return Answer(
            ActionFailed(
                f"{effect.kind.value} did not succeed in {effect.attempts} attempts: {outcome.reason}",
                "Find out why the connected system does not answer (test the connection), then retry.",
            ),
            outcome.reason,
        )

    async def _perform(self, claimed: Sequence[Claimed], connection: Any) -> dict[str, Outcome]:
        if connection is None:
            return dict.fromkeys((e.id for e in claimed), Later("the connection's profile has not arrived here yet"))
        if connection.removed:
            remedy = "Add the connection again, or close the case by keeping the seat."
            gone = Answer(ActionFailed(f"The connection {connection.name!r} was removed.", remedy), "")
            return dict.fromkeys((effect.id for effect in claimed), gone)
        try:
            return await self._run(claimed, connection)
        except Transient as error:
            return dict.fromkeys((effect.id for effect in claimed), Later(str(error)))
        except Permanent as error:
            remedy = "Mend the connection (its test says what is wrong), then retry."
            return dict.fromkeys((e.id for e in claimed), Answer(ActionFailed(str(error), remedy), str(error)))

    async def _run(self, claimed: Sequence[Claimed], connection: Any) -> dict[str, Outcome]:
        kind = claimed[0].kind
        reader = self._reader(connection)
        if kind is Effect.CHECK:
            return await self._check(claimed, reader)
        # A dry run never gets further than this line with anything that could write.
        actor = None if claimed[0].case.policy.dry_run else self._actor(connection)
        if kind is Effect.HAND_OVER:
            return await self._hand_over(claimed, reader, actor)
        if actor is None:
            return {e.id: Answer(SUCCESS[kind], f"dry run: would {kind.value} here") for e in claimed}
        act = {
            Effect.FREEZE: actor.freeze,
            Effect.UNFREEZE: actor.unfreeze,
            Effect.DEACTIVATE: actor.deactivate,
            Effect.REACTIVATE: actor.reactivate,
        }[kind]
        results = await act([effect.case.seat.holder.id for effect in claimed])
        outcomes: dict[str, Outcome] = {}
        for effect in claimed:
            match results.get(effect.case.seat.holder.id):
                case Done(changed, before):
                    evidence = msgspec.json.encode({"changed": changed, "before": before}).decode()
                    outcomes[effect.id] = Answer(SUCCESS[kind], evidence)
                case Refused(code, message, remedy):
                    outcomes[effect.id] = Answer(ActionFailed(f"{code}: {message}", remedy), message)
                case TryLater(reason):
                    outcomes[effect.id] = Later(reason)
                case None:
                    outcomes[effect.id] = Later("the connector gave no result for this holder")
        return outcomes

    # Checking again.

    async def _check(self, claimed: Sequence[Claimed], reader: SeatReader) -> dict[str, Outcome]:
        holders = [effect.case.seat.holder.id for effect in claimed]
        longest = max(effect.case.policy.inactive_days for effect in claimed)
        records = await reader.seats_of(holders)
        survey = await reader.survey(holders, since=self._clock.now() - timedelta(days=longest))
        return {e.id: self._checked(e.case, records.get(e.case.seat.holder.id), survey) for e in claimed}

    def _checked(self, case: Case, record: SeatRecord | None, survey: Survey) -> Outcome:
        now = self._clock.now()
        if record is None or not record.active:
            return _found("gone", "the account is no longer active")
        if record.product != case.seat.product:
            return _found("gone", f"the holder now has {record.product_name} instead of {case.seat.product_name}")
        ours = case.state is State.CHECKING_BEFORE_RECLAIM and not case.policy.dry_run
        if ours:
            if not isinstance(survey.frozen, Known):
                return Later(f"whether the account is frozen could not be read: {survey.frozen.reason}")
            if record.holder.id not in survey.frozen.value:
                return _found("changed", "the account is not frozen any more, and it was not us who unfroze it")
        if not checks.is_unused(record, inactive_days=case.policy.inactive_days, now=now):
            last = record.last_used_at.isoformat() if record.last_used_at else "never"
            return _found("active", f"used since it was flagged: last sign-in {last}")
        findings = checks.evaluate(
            record,
            survey,
            now=now,
            inactive_days=case.policy.inactive_days,
            warn_only=case.policy.warn_only,
            young_days=case.policy.young_days,
            frozen_by_us=(record.holder.id,) if ours else (),
        )
        for finding in findings:
            if finding.outcome == "unknown":
                return Later(f"the check {finding.check} could not be made: {finding.evidence}")
        for finding in findings:
            if finding.outcome == "skip":
                found = "active" if finding.check == "active_elsewhere" else "exempt"
                return _found(found, f"{finding.check}: {finding.evidence}")
        evidence = msgspec.json.encode({"checked_at": survey.taken_at, "findings": findings}).decode()
        return Answer(SeatChecked("clear", "checked again: still unused, every safety check passes"), evidence)

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
            results = await actor.hand_over(list(transfers.values()))
            for effect_id, transfer in transfers.items():
                outcomes[effect_id] = _handed_over(results.get(transfer.holder), plans[effect_id])
        return outcomes

    async def _plan(
        self, claimed: Sequence[Claimed], reader: SeatReader
    ) -> tuple[dict[str, dict[str, Any]], dict[str, Outcome]]:
        """Fix which records go to whom: effect id → plan, and effect id → outcome where nobody can take them."""
        holders = [effect.case.seat.holder.id for effect in claimed]
        found = await reader.open_records(holders)
        records = await reader.seats_of(holders)
        plans: dict[str, dict[str, Any]] = {}
        failed: dict[str, Outcome] = {}
        for effect in claimed:
            holder = effect.case.seat.holder
            mine = {kind: list(ids) for kind, ids in found.get(holder.id, {}).items() if ids}
            record = records.get(holder.id)
            manager = record.manager if record is not None else None
            if not mine:
                plans[effect.id] = {"successor": None, "records": {}}
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


def _found(found: Any, evidence: str) -> Answer:
    return Answer(SeatChecked(found, evidence), evidence)


def _handed_over(result: HandedOver | Refused | TryLater | None, plan: Mapping[str, Any]) -> Outcome:
    match result:
        case HandedOver(moved, failed) if not failed:
            count = sum(moved.values())
            evidence = msgspec.json.encode({"moved": moved, "plan": plan}).decode()
            return Answer(RecordsHandedOver(count), evidence)
        case HandedOver(moved, failed):
            some = "; ".join(f"{record}: {why}" for record, why in sorted(failed.items())[:5])
            return Answer(
                ActionFailed(
                    f"{len(failed)} open records could not be handed over: {some}",
                    "Mend these records in the connected system (or give them to somebody there), then retry.",
                    moved=sum(moved.values()),
                ),
                msgspec.json.encode({"moved": moved, "failed": failed, "plan": plan}).decode(),
            )
        case Refused(code, message, remedy):
            return Answer(ActionFailed(f"{code}: {message}", remedy), message)
        case TryLater(reason):
            return Later(reason)
        case None:
            return Later("the connector gave no result for this holder")
