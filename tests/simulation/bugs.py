"""Bugs planted over the real code, to try the judge: each has to be found within a bounded number of histories."""

from __future__ import annotations

import logging
import sqlite3
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager, nullcontext
from dataclasses import fields, replace
from datetime import timedelta
from typing import Any, Final
from unittest.mock import patch
from weakref import WeakKeyDictionary

import msgspec
import sqlalchemy as sa

from reclaim.approvals import jobs as approvals_jobs
from reclaim.approvals import pages as approvals_pages
from reclaim.common import db, inbox, outbox
from reclaim.common.contracts import CaseClosed, DecisionReceived, SeatReactivated
from reclaim.common.db import Unit
from reclaim.common.errors import Transient
from reclaim.connectors import checks, fake
from reclaim.connectors.ports import Done, Known, TryLater, Unknown
from reclaim.itsm_gateway import deliveries, ticketing, verdicts
from reclaim.itsm_gateway import handlers as gateway_handlers
from reclaim.lifecycle import (
    actions,
    brake_store,
    brakes,
    calendar,
    domain,
    drift,
    drift_store,
    handlers,
    jobs,
    store,
    submit,
)
from reclaim.lifecycle.domain import Effect, SeatChecked, State
from reclaim.savings import domain as savings_domain
from reclaim.savings import handlers as savings_handlers
from reclaim.savings import store as savings_store
from tests.simulation.database import Life
from tests.simulation.invariants import Limits
from tests.simulation.org import CHEAPER
from tests.simulation.rules import PLATFORM
from tests.simulation.stage import Stage
from tests.simulation.world import Chances

Plant = Callable[[], AbstractContextManager[Any]]


def _life(db: Any) -> Life:
    """Return the process that has this connection."""
    life: Life = db.dialect.simulated.life
    return life


def _transition(state: State, kind: type[Any], instead: Callable[..., Any]) -> AbstractContextManager[Any]:
    return patch.dict(domain.TRANSITIONS, {(state, kind): instead})  # type: ignore[arg-type]


def _refused(*_: Any) -> domain.Rejected:
    return domain.Rejected("planted: not heard")


# Messages.


def ack_before_commit() -> AbstractContextManager[Any]:
    original = inbox.Inbox.receive

    async def receive(self: inbox.Inbox, messages: Sequence[bytes]) -> None:
        for message in messages:
            await self._confirm(inbox._split(message))
        try:
            await original(self, messages)
        except Exception:
            return

    return patch.object(inbox.Inbox, "receive", receive)


def no_inbox() -> AbstractContextManager[Any]:
    async def record(self: inbox.Inbox, db: Any, parts: Sequence[Any]) -> set[str]:
        return {part.id for part in parts}

    return patch.object(inbox.Inbox, "_record", record)


def too_early_is_dropped() -> AbstractContextManager[Any]:
    async def set_aside(self: inbox.Inbox, part: Any, error: Exception) -> None:
        return

    return patch.object(inbox.Inbox, "_set_aside", set_aside)


def what_came_too_early_waits_for_its_turn() -> AbstractContextManager[Any]:
    async def none(*_: Any) -> list[Any]:
        return []

    return patch.object(inbox, "_waiting_for", none)


def what_cannot_be_read_is_thrown_away() -> AbstractContextManager[Any]:
    original = inbox.Inbox._set_aside

    async def set_aside(self: inbox.Inbox, part: Any, error: Exception) -> None:
        if isinstance(error, Transient):
            await original(self, part, error)

    return patch.object(inbox.Inbox, "_set_aside", set_aside)


def parked_message_raises_no_alert() -> AbstractContextManager[Any]:
    original = inbox.Inbox._set_aside

    async def set_aside(self: inbox.Inbox, part: Any, error: Exception) -> None:
        with patch.object(inbox, "log", logging.getLogger("planted")):
            await original(self, part, error)

    return patch.object(inbox.Inbox, "_set_aside", set_aside)


def deadlock_is_taken_for_a_defect() -> AbstractContextManager[Any]:
    return patch.object(db, "_SQLITE_AWAY", db._SQLITE_AWAY - {sqlite3.SQLITE_LOCKED})


def outbox_row_is_lost() -> AbstractContextManager[Any]:
    async def insert(*_: Any, **__: Any) -> None:
        return

    return patch.object(outbox, "insert_many", insert)


def outbox_row_deleted_at_publish() -> AbstractContextManager[Any]:
    original = outbox.Outbox.relay

    async def relay(self: outbox.Outbox, database: Any, bus: Any) -> bool:
        said = [one.event_id for one in self._at_hand]
        worked = await original(self, database, bus)
        async with database.unit() as unit:
            for event_id in said:
                await unit.db.execute(sa.delete(outbox.OUTBOX).where(outbox.OUTBOX.c.event_id == event_id))
        return worked

    return patch.object(outbox.Outbox, "relay", relay)


def keep_is_never_said() -> AbstractContextManager[Any]:
    original = Unit.emit

    def emit(self: Unit, *events: Any) -> None:
        original(self, *(e for e in events if not (isinstance(e, DecisionReceived) and e.decision == "keep")))

    return patch.object(Unit, "emit", emit)


# Checks.


def _unchecked(state: State) -> AbstractContextManager[Any]:
    original = actions.Actions._check

    async def check(self: actions.Actions, claimed: Sequence[Any], reader: Any) -> dict[str, Any]:
        skipped = [effect for effect in claimed if effect.case.state is state]
        rest = [effect for effect in claimed if effect.case.state is not state]
        found = await original(self, rest, reader) if rest else {}
        clear = actions.Answer(SeatChecked("clear", "planted"), "planted")
        return found | {effect.id: clear for effect in skipped}

    return patch.object(actions.Actions, "_check", check)


def no_recheck_before_freeze() -> AbstractContextManager[Any]:
    return _unchecked(State.CHECKING_BEFORE_FREEZE)


def no_recheck_before_reclaim() -> AbstractContextManager[Any]:
    return _unchecked(State.CHECKING_BEFORE_RECLAIM)


def old_check_is_good_enough() -> AbstractContextManager[Any]:
    return patch.object(actions, "CHECK_HOLDS", timedelta(days=400))


def _blind_to(part: str) -> AbstractContextManager[Any]:
    original = checks.evaluate

    def evaluate(seat: Any, survey: Any, **more: Any) -> Any:
        return original(seat, replace(survey, **{part: Known({})}), **more)

    return patch.object(checks, "evaluate", evaluate)


def unknown_passes() -> AbstractContextManager[Any]:
    original = checks.evaluate

    def evaluate(seat: Any, survey: Any, **more: Any) -> Any:
        read = {part.name: getattr(survey, part.name) for part in fields(survey)}
        guessed = {name: Known({}) for name, part in read.items() if isinstance(part, Unknown)}
        return original(seat, replace(survey, **guessed), **more)

    return patch.object(checks, "evaluate", evaluate)


def exempt_is_ignored() -> AbstractContextManager[Any]:
    return _blind_to("exempt")


def administrator_is_ignored() -> AbstractContextManager[Any]:
    return _blind_to("administrators")


def sign_in_is_ignored() -> AbstractContextManager[Any]:
    return patch.object(checks, "is_unused", lambda *_, **__: True)


# Decisions and time.


def get_mutates() -> AbstractContextManager[Any]:
    original = approvals_pages.LinkPages.show

    async def show(self: Any, request: Any, token: str, choice: str) -> Any:
        found = await self._find(token)
        if found is not None and found.opens is approvals_pages.Opens.QUESTION and found.link.purpose == "decision":
            await self._record(found.link, "revoke", "", request)
        return await original(self, request, token, choice)

    return patch.object(approvals_pages.LinkPages, "show", show)


def timer_early() -> AbstractContextManager[Any]:
    original = jobs.fire_timers

    class Ahead:
        def __init__(self, database: Any) -> None:
            self._database = database

        @asynccontextmanager
        async def unit(self) -> AsyncIterator[Unit]:
            async with self._database.unit() as unit:
                unit.now += timedelta(days=2)
                yield unit

    async def fire(database: Any, heard: Any) -> bool:
        return await original(Ahead(database), heard)  # type: ignore[arg-type]

    return patch.object(jobs, "fire_timers", fire)


@contextmanager
def timers_are_not_taken_out() -> Iterator[None]:
    """Let a timer stand once it has fired, and fire at cases in any state."""
    original = store.take_timers
    any_state = dict.fromkeys(domain.TIMED, frozenset(State))

    async def take(db: Any, cases: Any, until: Any) -> Any:
        async with db.begin_nested() as point:
            taken = await original(db, cases, until)
            await point.rollback()
        return taken

    with patch.object(store, "take_timers", take), patch.object(jobs, "TIMED", any_state):
        yield


def dry_run_freezes_unasked() -> AbstractContextManager[Any]:
    """Let a dry run mean to freeze what a check would have spared."""
    original = actions.Actions._checked

    def checked(self: actions.Actions, effect: Any, record: Any, survey: Any) -> Any:
        if effect.case.policy.dry_run:
            return actions.Answer(SeatChecked("clear", "planted"), "planted")
        return original(self, effect, record, survey)

    return patch.object(actions.Actions, "_checked", checked)


def grace_is_ignored() -> AbstractContextManager[Any]:
    original = domain.TRANSITIONS[State.FREEZING, domain.SeatFrozen]

    def frozen(case: Any, command: Any, now: Any) -> Any:
        hasty = msgspec.structs.replace(case, policy=msgspec.structs.replace(case.policy, grace_days=0))
        return original(hasty, command, now)

    return _transition(State.FREEZING, domain.SeatFrozen, frozen)


def keep_in_grace_is_ignored() -> AbstractContextManager[Any]:
    return _transition(State.FROZEN, domain.Decide, _refused)


def appeal_while_acting_is_ignored() -> AbstractContextManager[Any]:
    return _transition(State.FREEZING, domain.Decide, _refused)


def keep_before_the_freeze_is_ignored() -> AbstractContextManager[Any]:
    return _transition(State.CHECKING_BEFORE_FREEZE, domain.Decide, _refused)


def second_decision_wins() -> AbstractContextManager[Any]:
    return _transition(State.KEPT, domain.Decide, domain._decided)


@contextmanager
def withdrawal_is_ignored() -> Iterator[None]:
    unheard = {pair: _refused for pair in domain.TRANSITIONS if pair[1] is domain.Withdraw}
    with patch.dict(domain.TRANSITIONS, unheard):  # type: ignore[arg-type]
        yield


def removed_connection_is_still_used() -> AbstractContextManager[Any]:
    original = store.save_connections

    async def save(db: Any, events: Sequence[Any]) -> None:
        if there := [event for event in events if not event.removed]:
            await original(db, there)

    return patch.object(store, "save_connections", save)


def delivered_before_it_is_sent() -> AbstractContextManager[Any]:
    async def send(self: Any, session: Any, mail: Any, request: Any) -> None:
        await self._sent(mail, request)

    return patch.object(approvals_jobs.MailJob, "_send", send)


def deadline_without_a_question() -> AbstractContextManager[Any]:
    original = handlers.SUBSCRIPTIONS[handlers.UserFlagged]

    async def opened(deps: Any, unit: Unit, events: Sequence[Any]) -> None:
        await original(deps, unit, events)
        known = await store.load(unit.db, [event.data.case_id for event in events])
        fresh = [case for case in known.values() if case.state is State.FLAGGED]
        due = unit.now + timedelta(days=1)
        asked = [
            msgspec.structs.replace(case, state=State.AWAITING_DECISION, notified_at=unit.now, decide_by=due)
            for case in fresh
        ]
        await store.update(unit.db, asked, unit.now)
        await store.set_timers(unit.db, [(case.id, domain.Timer("deadline", due)) for case in asked])

    return patch.dict(handlers.SUBSCRIPTIONS, {handlers.UserFlagged: opened})


# Acting.


def no_answer_is_taken_for_success() -> AbstractContextManager[Any]:
    original = actions.Actions._act

    class Hopeful:
        def __init__(self, actor: Any) -> None:
            self._actor = actor

        def __getattr__(self, name: str) -> Any:
            async def act(holders: Any) -> Any:
                results = await getattr(self._actor, name)(holders)
                return {
                    holder: Done(changed=True) if isinstance(result, TryLater) else result
                    for holder, result in results.items()
                }

            return act

    async def act(self: Any, claimed: Any, kind: Any, actor: Any) -> Any:
        return await original(self, claimed, kind, Hopeful(actor))  # type: ignore[arg-type]

    return patch.object(actions.Actions, "_act", act)


def dry_run_writes() -> AbstractContextManager[Any]:
    original = store.claim_effects

    async def claim(db: Any, **given: Any) -> list[Any]:
        return [
            replace(
                effect,
                case=msgspec.structs.replace(
                    effect.case, policy=msgspec.structs.replace(effect.case.policy, dry_run=False)
                ),
            )
            for effect in await original(db, **given)
        ]

    return patch.object(store, "claim_effects", claim)


@contextmanager
def unfreezes_what_others_froze() -> Iterator[None]:
    """Take any account that is found frozen before our freeze for frozen by us, and the org's word for nothing."""
    original = domain.TRANSITIONS[State.CHECKING_BEFORE_FREEZE, SeatChecked]

    def checked(case: Any, command: SeatChecked, now: Any) -> Any:
        return original(case, msgspec.structs.replace(command, tried=True), now)

    with _transition(State.CHECKING_BEFORE_FREEZE, SeatChecked, checked), whose_freeze_it_is_is_not_read():
        yield


def unfreeze_is_only_said() -> AbstractContextManager[Any]:
    original = actions.Actions._act

    async def act(self: Any, claimed: Any, kind: Any, actor: Any) -> Any:
        if kind is Effect.UNFREEZE:
            return {e.id: actions.Answer(domain.SeatUnfrozen(), "planted") for e in claimed}
        return await original(self, claimed, kind, actor)

    return patch.object(actions.Actions, "_act", act)


def acts_within_a_transaction() -> AbstractContextManager[Any]:
    original = actions.Actions._perform

    async def perform(self: Any, claimed: Any, connection: Any) -> Any:
        async with self._database.reading() as db:
            await db.execute(sa.text("SELECT 1"))
            return await original(self, claimed, connection)

    return patch.object(actions.Actions, "_perform", perform)


def writes_without_reading() -> AbstractContextManager[Any]:
    original = fake.FakeActor._set_one

    def set_one(self: fake.FakeActor, operation: str, holder: str, name: str, *, value: Any) -> Any:
        result = original(self, operation, holder, name, value=value)
        if isinstance(result, Done) and not result.changed:
            self._log(holder, name, value, value)
        return result

    return patch.object(fake.FakeActor, "_set_one", set_one)


def whose_freeze_it_is_is_not_read() -> AbstractContextManager[Any]:
    original = fake.FakeActor._set_one

    def set_one(self: fake.FakeActor, operation: str, holder: str, name: str, *, value: Any) -> Any:
        if holder in self._org.users:
            self._org.users[holder].frozen_by_another = False
        return original(self, operation, holder, name, value=value)

    return patch.object(fake.FakeActor, "_set_one", set_one)


# Ways to free a seat, and days to do it on.


def downgrade_takes_the_whole_account() -> AbstractContextManager[Any]:
    return patch.object(domain, "_method", lambda policy, _: "task" if policy.reclaim_by == "task" else "deactivate")


def revoke_is_taken_for_a_downgrade() -> AbstractContextManager[Any]:
    return patch.object(domain, "_method", lambda policy, _: "downgrade" if policy.downgrade_to else policy.reclaim_by)


def task_is_done_by_us() -> AbstractContextManager[Any]:
    return patch.object(domain, "_method", lambda *_: "deactivate")


def licence_is_changed_first() -> AbstractContextManager[Any]:
    original = fake.FakeActor._in_turn

    async def in_turn(self: fake.FakeActor, holder: str, *wanted: tuple[str, Any]) -> Any:
        return await original(self, holder, *sorted(wanted, key=lambda part: part[0] != "profile"))

    return patch.object(fake.FakeActor, "_in_turn", in_turn)


def upgrade_forgets_permission_sets() -> AbstractContextManager[Any]:
    original = fake.FakeActor._upgrade

    async def upgrade(self: fake.FakeActor, holder: str, image: Any) -> Any:
        return await original(self, holder, replace(image, permission_sets=()))

    return patch.object(fake.FakeActor, "_upgrade", upgrade)


def day_off_is_not_looked_at() -> AbstractContextManager[Any]:
    return patch.object(calendar, "may_reclaim", lambda *_: True)


def days_off_count_as_grace() -> AbstractContextManager[Any]:
    return patch.object(calendar, "_after_working_days", lambda _policy, start: start)


def hours_are_ignored() -> AbstractContextManager[Any]:
    return patch.object(calendar, "may_act", lambda *_: True)


# Brakes.


def cap_is_counted_per_process() -> AbstractContextManager[Any]:
    taken: WeakKeyDictionary[Any, list[Any]] = WeakKeyDictionary()
    ledger, add_permits = brake_store.ledger, brake_store.add_permits

    async def of_this_process(db: Any, *args: Any, **more: Any) -> Any:
        mine = taken.setdefault(_life(db), [])
        return replace(
            await ledger(db, *args, **more),
            runs=Counter((request.step, request.run_id) for request in mine),
            windows=Counter((cap, request.step) for request in mine for cap in brakes.WINDOWS),
        )

    async def add(db: Any, permits: Sequence[Any], *args: Any, **more: Any) -> None:
        taken.setdefault(_life(db), []).extend(permit.request for permit in permits)
        await add_permits(db, permits, *args, **more)

    return patch.multiple(brake_store, ledger=of_this_process, add_permits=add)


def permits_are_not_kept() -> AbstractContextManager[Any]:
    async def add(*_: Any, **__: Any) -> None:
        return

    return patch.object(brake_store, "add_permits", add)


def permit_counts_from_the_first_attempt() -> AbstractContextManager[Any]:
    async def renew(*_: Any) -> None:
        return

    return patch.object(brake_store, "renew_permits", renew)


def canary_is_ignored() -> AbstractContextManager[Any]:
    original = brake_store._canaries

    async def canaries(*args: Any) -> dict[str, Any]:
        return {rule: replace(canary, confirmed=True) for rule, canary in (await original(*args)).items()}

    return patch.object(brake_store, "_canaries", canaries)


def kill_switch_is_read_at_the_start() -> AbstractContextManager[Any]:
    known: WeakKeyDictionary[Any, Any] = WeakKeyDictionary()
    original = brake_store.engaged

    async def engaged(db: Any) -> Any:
        life = _life(db)
        if life not in known:
            known[life] = await original(db)
        return known[life]

    return patch.object(brake_store, "engaged", engaged)


def kill_switch_is_not_read_before_the_write() -> AbstractContextManager[Any]:
    async def cleared(self: actions.Actions, claimed: Sequence[Any]) -> Any:
        return await self._still_ours(claimed), {}

    return patch.object(actions.Actions, "_cleared", cleared)


# Records.


def comparison_misses_who_is_back() -> AbstractContextManager[Any]:
    return patch.object(drift, "_after_reclaim", lambda *_: None)


def comparison_never_clears() -> AbstractContextManager[Any]:
    original = drift_store.save

    async def save(db: Any, connection_id: str, found: Sequence[Any], now: Any) -> int:
        standing = [listed.drift for listed in await drift_store.drifts(db)]
        return await original(db, connection_id, [*standing, *found], now)

    return patch.object(drift_store, "save", save)


def audit_entry_is_skipped() -> AbstractContextManager[Any]:
    original = submit.record

    def record(unit: Any, entries: Sequence[Any]) -> None:
        original(unit, [pair for pair in entries if pair[0].command != "seat_checked"])

    return patch.object(submit, "record", record)


def savings_are_counted_twice() -> AbstractContextManager[Any]:
    return patch.dict(savings_domain.SIGN, {"reclaimed": 2})


def reactivations_are_not_booked() -> AbstractContextManager[Any]:
    async def nothing(deps: Any, unit: Unit, events: Sequence[Any]) -> None:
        return

    return patch.dict(savings_handlers.SUBSCRIPTIONS, {SeatReactivated: nothing})


def projection_misses_rows() -> AbstractContextManager[Any]:
    async def project(*_: Any, **__: Any) -> None:
        return

    return patch.object(savings_store, "project", project)


# Service desks.


def ticket_is_opened_under_another_name() -> AbstractContextManager[Any]:
    original = ticketing.draft

    def draft(stored: Any, ticket: Any) -> Any:
        return replace(original(stored, ticket), case_id=f"{ticket.reference}-{ticket.attempts}")

    return patch.object(ticketing, "draft", draft)


def ticket_is_told_blindly() -> AbstractContextManager[Any]:
    original = ticketing.Ticketing._say

    async def say(self: Any, desk: Any, word: Any, ticket: Any) -> Any:
        return await original(self, desk, replace(word, attempts=1), ticket)

    return patch.object(ticketing.Ticketing, "_say", say)


def tickets_are_never_polled() -> AbstractContextManager[Any]:
    async def poll(*_: Any) -> None:
        return

    return patch.object(ticketing.Ticketing, "_poll_some", poll)


def webhook_is_believed() -> AbstractContextManager[Any]:
    return patch.object(deliveries, "_is_taken_at_its_word", lambda *_: True)


def reopening_is_no_appeal() -> AbstractContextManager[Any]:
    def reopened(*_: Any) -> verdicts.Verdict:
        return verdicts.Verdict("ignored", "planted: not heard")

    return patch.object(verdicts, "_reopened", reopened)


def end_is_not_told() -> AbstractContextManager[Any]:
    original = ticketing.tell

    async def tell(unit: Unit, told: Sequence[Any]) -> None:
        await original(unit, [each for each in told if not isinstance(each.data, CaseClosed)])

    return patch.object(gateway_handlers.ticketing, "tell", tell)


def outage_fails_a_word() -> AbstractContextManager[Any]:
    return patch.object(ticketing, "is_outage", lambda _error: False)


def work_goes_on_when_its_claim_is_over() -> AbstractContextManager[Any]:
    original = ticketing.Ticketing._each

    async def each(self: Any, version: Any, claimed: Any, work: Any, _until: int) -> None:
        await original(self, version, claimed, work, 2**62)

    return patch.object(ticketing.Ticketing, "_each", each)


BUGS: Final[dict[str, Plant]] = {
    plant.__name__: plant
    for plant in (
        ack_before_commit,
        no_inbox,
        too_early_is_dropped,
        what_came_too_early_waits_for_its_turn,
        what_cannot_be_read_is_thrown_away,
        parked_message_raises_no_alert,
        deadlock_is_taken_for_a_defect,
        outbox_row_is_lost,
        outbox_row_deleted_at_publish,
        keep_is_never_said,
        no_recheck_before_freeze,
        no_recheck_before_reclaim,
        old_check_is_good_enough,
        unknown_passes,
        exempt_is_ignored,
        administrator_is_ignored,
        sign_in_is_ignored,
        get_mutates,
        timer_early,
        timers_are_not_taken_out,
        dry_run_freezes_unasked,
        grace_is_ignored,
        keep_in_grace_is_ignored,
        appeal_while_acting_is_ignored,
        keep_before_the_freeze_is_ignored,
        second_decision_wins,
        withdrawal_is_ignored,
        removed_connection_is_still_used,
        delivered_before_it_is_sent,
        deadline_without_a_question,
        no_answer_is_taken_for_success,
        dry_run_writes,
        unfreezes_what_others_froze,
        unfreeze_is_only_said,
        acts_within_a_transaction,
        writes_without_reading,
        whose_freeze_it_is_is_not_read,
        downgrade_takes_the_whole_account,
        revoke_is_taken_for_a_downgrade,
        task_is_done_by_us,
        licence_is_changed_first,
        upgrade_forgets_permission_sets,
        day_off_is_not_looked_at,
        days_off_count_as_grace,
        hours_are_ignored,
        cap_is_counted_per_process,
        permits_are_not_kept,
        permit_counts_from_the_first_attempt,
        canary_is_ignored,
        kill_switch_is_read_at_the_start,
        kill_switch_is_not_read_before_the_write,
        comparison_misses_who_is_back,
        comparison_never_clears,
        audit_entry_is_skipped,
        savings_are_counted_twice,
        reactivations_are_not_booked,
        projection_misses_rows,
        ticket_is_opened_under_another_name,
        ticket_is_told_blindly,
        tickets_are_never_polled,
        webhook_is_believed,
        reopening_is_no_appeal,
        end_is_not_told,
        outage_fails_a_word,
        work_goes_on_when_its_claim_is_over,
    )
}

HAUNTED: Final[dict[str, Chances]] = {
    "ack_before_commit": Chances(hold=0, kill=0, database=0.6, broker=0, org=0, mail=0),
    "no_answer_is_taken_for_success": Chances(hold=0, kill=0, database=0, broker=0, org=0.2, mail=0),
    "cap_is_counted_per_process": Chances(hold=0, kill=0.05, database=0, broker=0, org=0, mail=0),
    "too_early_is_dropped": Chances(hold=0, kill=0, database=0, broker=0.6, org=0, mail=0),
    "what_came_too_early_waits_for_its_turn": Chances(hold=0, kill=0, database=0, broker=0.6, org=0, mail=0),
    "writes_without_reading": Chances(hold=0, kill=0.02, database=0, broker=0, org=0.3, mail=0),
    "kill_switch_is_read_at_the_start": Chances(hold=0.05, kill=0, database=0, broker=0, org=0.1, mail=0),
    "reactivations_are_not_booked": Chances(hold=0, kill=0, database=0, broker=0, org=0, mail=0),
    "whose_freeze_it_is_is_not_read": Chances(hold=0.05, kill=0, database=0, broker=0, org=0, mail=0),
    "outbox_row_is_lost": Chances(hold=0, kill=0, database=0, broker=0.6, org=0, mail=0),
    "outbox_row_deleted_at_publish": Chances(hold=0, kill=0, database=0, broker=0.6, org=0, mail=0),
    "kill_switch_is_not_read_before_the_write": Chances(hold=0.08, kill=0, database=0, broker=0, org=0, mail=0),
    "permit_counts_from_the_first_attempt": Chances(hold=0, kill=0.06, database=0, broker=0, org=0.3, mail=0),
    "unknown_passes": Chances(hold=0, kill=0, database=0, broker=0, org=0.6, mail=0),
    "removed_connection_is_still_used": Chances(hold=0, kill=0, database=0, broker=0, org=0, mail=0),
    "exempt_is_ignored": Chances(hold=0, kill=0, database=0, broker=0, org=0, mail=0),
}
"""The trouble without which a bug does no harm; the others are looked for in histories as they come."""

BRAKED: Final[dict[str, Limits]] = {
    "cap_is_counted_per_process": Limits(run=100, day=100, month=1, canary=0),
    "permits_are_not_kept": Limits(run=1, day=1, month=1, canary=0),
    "permit_counts_from_the_first_attempt": Limits(run=100, day=1, month=100, canary=0),
    "kill_switch_is_not_read_before_the_write": Limits(run=100, day=100, month=100, canary=0),
    "canary_is_ignored": Limits(run=100, day=100, month=100, canary=1),
}
"""The limits without which a bug in the brakes does not show."""

DOWNGRADE: Final[Mapping[str, Any]] = {
    "reclaim_by": "downgrade",
    "downgrade_product": CHEAPER,
    "downgrade_profile": PLATFORM,
    "dry_run": False,
}
EAGER: Final[Mapping[str, Any]] = {
    "reclaim_by": "deactivate",
    "decision_days": 2,
    "remind_days": [],
    "on_timeout": "freeze",
    "grace_days": 3,
    "hand_over": True,
    "dry_run": False,
}
RULED: Final[dict[str, Mapping[str, Any]]] = {
    "unknown_passes": EAGER,
    "what_came_too_early_waits_for_its_turn": EAGER,
    "permit_counts_from_the_first_attempt": EAGER,
    "downgrade_takes_the_whole_account": DOWNGRADE,
    "revoke_is_taken_for_a_downgrade": DOWNGRADE | {"reclaim_by": "deactivate"},
    "task_is_done_by_us": {"reclaim_by": "task", "dry_run": False},
    "licence_is_changed_first": DOWNGRADE,
    "upgrade_forgets_permission_sets": DOWNGRADE,
    "day_off_is_not_looked_at": {"no_reclaim_before_days_off": True},
    "dry_run_freezes_unasked": {"dry_run": True},
    "days_off_count_as_grace": {"grace_calendar": "business"},
    "hours_are_ignored": {"act_from": "08:00", "act_until": "18:00"},
}
"""The rule without which a bug does no harm."""

FOUND_BY: Final[dict[str, int]] = {
    "ack_before_commit": 18,
    "no_inbox": 0,
    "too_early_is_dropped": 13,
    "what_cannot_be_read_is_thrown_away": 29,
    "parked_message_raises_no_alert": 29,
    "deadlock_is_taken_for_a_defect": 9,
    "outbox_row_is_lost": 8,
    "outbox_row_deleted_at_publish": 8,
    "keep_is_never_said": 3,
    "no_recheck_before_freeze": 0,
    "no_recheck_before_reclaim": 0,
    "old_check_is_good_enough": 0,
    "unknown_passes": 451,
    "exempt_is_ignored": 20,
    "administrator_is_ignored": 15,
    "sign_in_is_ignored": 0,
    "get_mutates": 0,
    "timer_early": 0,
    "timers_are_not_taken_out": 0,
    "dry_run_freezes_unasked": 0,
    "grace_is_ignored": 0,
    "keep_in_grace_is_ignored": 36,
    "appeal_while_acting_is_ignored": 114,
    "keep_before_the_freeze_is_ignored": 17,
    "second_decision_wins": 56,
    "withdrawal_is_ignored": 18,
    "removed_connection_is_still_used": 175,
    "delivered_before_it_is_sent": 0,
    "deadline_without_a_question": 4,
    "no_answer_is_taken_for_success": 6,
    "dry_run_writes": 7,
    "unfreezes_what_others_froze": 10,
    "unfreeze_is_only_said": 36,
    "acts_within_a_transaction": 0,
    "writes_without_reading": 16,
    "whose_freeze_it_is_is_not_read": 11,
    "downgrade_takes_the_whole_account": 0,
    "revoke_is_taken_for_a_downgrade": 0,
    "task_is_done_by_us": 0,
    "licence_is_changed_first": 3,
    "upgrade_forgets_permission_sets": 3,
    "day_off_is_not_looked_at": 29,
    "days_off_count_as_grace": 0,
    "hours_are_ignored": 34,
    "cap_is_counted_per_process": 79,
    "permits_are_not_kept": 0,
    "canary_is_ignored": 0,
    "kill_switch_is_read_at_the_start": 6,
    "comparison_misses_who_is_back": 0,
    "comparison_never_clears": 0,
    "audit_entry_is_skipped": 0,
    "savings_are_counted_twice": 0,
    "reactivations_are_not_booked": 4,
    "projection_misses_rows": 0,
    "ticket_is_opened_under_another_name": 0,
    "ticket_is_told_blindly": 96,
    "tickets_are_never_polled": 0,
    "webhook_is_believed": 2,
    "reopening_is_no_appeal": 269,
    "end_is_not_told": 4,
    "outage_fails_a_word": 719,
    "work_goes_on_when_its_claim_is_over": 335,
}
"""The first history that finds each bug; `python -m tests.simulation --bugs` tells them anew.

Three are not among them, since no few hundred histories find them: `permit_counts_from_the_first_attempt` takes a retry
and a second seat in the hours between two limits, `what_came_too_early_waits_for_its_turn` a decision that overtakes
its case right before its deadline, `kill_switch_is_not_read_before_the_write` a switch engaged between claim and call.
"""


AT_DESKS: Final = frozenset(
    {
        "ticket_is_opened_under_another_name",
        "ticket_is_told_blindly",
        "tickets_are_never_polled",
        "webhook_is_believed",
        "reopening_is_no_appeal",
        "end_is_not_told",
        "outage_fails_a_word",
        "work_goes_on_when_its_claim_is_over",
    }
)
"""Bugs that are looked for where a service desk asks; the others where none does."""


def violations(stage: Stage, seed: int, name: str, *, planted: bool = True) -> list[str]:
    """Play a history with a bug in it, or with the same trouble and without the bug; return what was violated."""
    with BUGS[name]() if planted else nullcontext():
        outcome = stage.play(
            seed,
            chances=HAUNTED.get(name),
            limits=BRAKED.get(name),
            terms=RULED.get(name),
            desk=name in AT_DESKS,
        )
        return outcome.violations


def find(stage: Stage, name: str, seeds: Iterable[int]) -> int | None:
    """Return the first history that finds a bug."""
    return next((seed for seed in seeds if violations(stage, seed, name)), None)
