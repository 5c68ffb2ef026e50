"""Changes accounts in one Salesforce org: freeze, unfreeze, deactivate, reactivate, hand over.

Salesforce has no compare-and-set for users, so every change reads first, writes, and reads back; what happens
between the first read and the write cannot be seen, and the README says how small that window is. A write that got
no answer is never sent again before a read has shown that it did not happen. Setup objects (User, UserLogin) and
business records never share a call.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeVar

from reclaim.common.errors import Permanent, Transient
from reclaim.connectors.ports import ActionResult, Done, HandedOver, Refused, Transfer, TryLater
from reclaim.connectors.salesforce import soql
from reclaim.connectors.salesforce.errors import LOCKED, Busy, NotReadable, SignInRefused, first_error
from reclaim.connectors.salesforce.reader import BUSINESS
from reclaim.connectors.salesforce.refusals import refused
from reclaim.connectors.salesforce.session import ROWS_PER_WRITE, Row, WriteSession
from reclaim.connectors.salesforce.soql import Query

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Field:
    """One yes-or-no field of one record for each holder: where it is, and how to ask for it."""

    sobject: str
    name: str
    holder: str

    @property
    def query(self) -> Query:
        return Query(", ".join(dict.fromkeys(("Id", self.holder, self.name))), self.sobject)


_FROZEN: Final = _Field("UserLogin", "IsFrozen", "UserId")
_ACTIVE: Final = _Field("User", "IsActive", "Id")


class _Unfinished(Exception):
    """Some records are neither done nor refused; says why. It only drives the next attempt."""


@dataclass(slots=True)
class _Sent:
    """What one attempt heard: the records accepted, those refused with their errors, and why others are open."""

    accepted: set[str] = field(default_factory=set)
    refused: dict[str, object] = field(default_factory=dict)
    reason: str = ""
    stopped_by: Transient | Permanent | None = None

    def go_on(self, *, unfinished: bool) -> None:
        """Raise what ends or repeats the attempt, now that reading back has settled what it could."""
        if unfinished and self.stopped_by is not None:
            raise self.stopped_by
        if unfinished:
            raise _Unfinished(self.reason)


@dataclass(frozen=True, slots=True)
class _Move:
    """One record's way from its owner to the next."""

    holder: str
    successor: str


@dataclass(slots=True)
class _Tally:
    """What became of one holder's records."""

    moved: Counter[str] = field(default_factory=Counter)
    failed: dict[str, Refused] = field(default_factory=dict)
    later: str | None = None


class SalesforceActor:
    """The `SeatActor` of a Salesforce org."""

    def __init__(self, session: WriteSession) -> None:
        self._session = session

    async def freeze(self, holders: Sequence[str]) -> Mapping[str, ActionResult]:
        """Set `UserLogin.IsFrozen`: the holder can no longer sign in, the licence stays in use."""
        return await self._set(_FROZEN, holders, value=True, never_self="freeze")

    async def unfreeze(self, holders: Sequence[str]) -> Mapping[str, ActionResult]:
        """Clear `UserLogin.IsFrozen`."""
        return await self._set(_FROZEN, holders, value=False)

    async def deactivate(self, holders: Sequence[str]) -> Mapping[str, ActionResult]:
        """Clear `User.IsActive`, which frees the licence; what blocks it is refused in Salesforce's own words."""
        return await self._set(_ACTIVE, holders, value=False, never_self="deactivate")

    async def reactivate(self, holders: Sequence[str]) -> Mapping[str, ActionResult]:
        """Set `User.IsActive`, then clear `UserLogin.IsFrozen`; refused when no licence is free."""
        results = dict(await self._set(_ACTIVE, holders, value=True))
        active = [holder for holder, result in results.items() if isinstance(result, Done)]
        for holder, thawed in (await self.unfreeze(active)).items():
            woken = results[holder]
            if isinstance(thawed, Done) and isinstance(woken, Done):
                results[holder] = Done(woken.changed or thawed.changed, {**woken.before, **thawed.before})
            else:
                results[holder] = thawed
        return results

    async def hand_over(self, transfers: Sequence[Transfer]) -> Mapping[str, HandedOver | Refused | TryLater]:
        """Give open opportunities, cases and leads to their successors, 200 records a call.

        Only what still belongs to the holder and is still open is moved; what belongs to the successor is counted.
        """
        results: dict[str, HandedOver | Refused | TryLater] = {}
        fit: list[Transfer] = []
        for transfer in transfers:
            holder, successor = transfer.holder, transfer.successor
            if not _is_user_id(holder) or not _is_user_id(successor):
                results[holder] = Refused("MALFORMED_ID", f"{holder!r} or {successor!r} is no user's id", _READ_AGAIN)
            elif _same(holder, successor):
                results[holder] = Refused("SAME_OWNER", "the successor is the holder", "Choose another successor.")
            else:
                fit.append(transfer)
        try:
            unfit = await self._unfit(list(dict.fromkeys(transfer.successor for transfer in fit)))
            results |= {each.holder: unfit[each.successor] for each in fit if each.successor in unfit}
            fit = [each for each in fit if each.holder not in results]
            tallies = {each.holder: _Tally() for each in fit}
            for sobject, moves in _by_object(fit, tallies).items():
                await self._move(sobject, moves, tallies)
        except (Transient, Permanent) as error:
            return {each.holder: _failure(error) for each in fit} | results
        for holder, tally in tallies.items():
            if tally.later is not None:
                results[holder] = TryLater(tally.later, moved=tally.moved.total())
            else:
                results[holder] = HandedOver(moved=dict(tally.moved), failed=tally.failed)
        return results

    async def close(self) -> None:
        """Close the connections to the org."""
        await self._session.close()

    # One yes-or-no field for many holders.

    async def _set(
        self, what: _Field, holders: Sequence[str], *, value: bool, never_self: str | None = None
    ) -> Mapping[str, ActionResult]:
        results: dict[str, ActionResult] = {}
        asked: list[str] = []
        for holder in dict.fromkeys(holders):
            if _is_user_id(holder):
                asked.append(holder)
            else:
                results[holder] = Refused("MALFORMED_ID", f"{holder!r} is not a user's id", _READ_AGAIN)
        if not asked:
            return results
        try:
            if never_self is not None:
                me = await self._session.user_id()
                for holder in [each for each in asked if _same(each, me)]:
                    asked.remove(holder)
                    results[holder] = Refused(
                        "OWN_USER", f"Reclaim signs in as this user and does not {never_self} it", "Leave it alone."
                    )
            rows = await self._read(what, asked)
        except (Transient, Permanent) as error:
            return results | {holder: _failure(error) for holder in asked}
        pending: dict[str, str] = {}
        for holder in asked:
            row = rows.get(holder[:15])
            if row is None:
                results[holder] = Refused("NOT_FOUND", f"the org has no {what.sobject} of this user", _READ_AGAIN)
            elif row[what.name] is value:
                results[holder] = Done(changed=False, before={what.name: value})
            else:
                pending[holder] = row["Id"]
        return results | await self._write(what, pending, value=value)

    async def _write(self, what: _Field, pending: dict[str, str], *, value: bool) -> dict[str, ActionResult]:
        """Set the field on records by holder, until each is done or refused, or patience ends.

        `pending` is consumed: a holder leaves it only with a read that shows the field as asked, or a refusal.
        """
        results: dict[str, ActionResult] = {}

        async def once_more() -> None:
            sent = await self._send(what.sobject, what.name, dict.fromkeys(pending.values(), value))
            rows = await self._read(what, list(pending))
            for holder, row_id in list(pending.items()):
                row = rows.get(holder[:15])
                if row is not None and row[what.name] is value:
                    # Refused and yet as asked: somebody else did it in between.
                    results[holder] = Done(changed=row_id not in sent.refused, before={what.name: not value})
                elif row_id in sent.refused:
                    results[holder] = refused(sent.refused[row_id])
                elif row_id in sent.accepted:
                    results[holder] = TryLater(_UNDONE)
                else:
                    continue
                del pending[holder]
            sent.go_on(unfinished=bool(pending))

        try:
            if pending:
                await self._session.tuning.retrying()(_Unfinished, once_more)
        except _Unfinished as unfinished:
            results |= {holder: TryLater(str(unfinished)) for holder in pending}
        except (Transient, Permanent) as error:
            results |= {holder: _failure(error) for holder in pending}
        return results

    async def _send(self, sobject: str, field: str, values: Mapping[str, bool | str]) -> _Sent:
        """Send each record once, 200 a call; after an error that the next call would meet too, send no more."""
        sent = _Sent()
        for chunk in _chunks(list(values.items()), ROWS_PER_WRITE):
            try:
                answer = await self._session.update(sobject, field, dict(chunk))
            except Busy as error:
                sent.reason = str(error)
                continue
            except (Transient, Permanent) as error:
                sent.stopped_by = error
                break
            for record_id, row in answer.items():
                if row.get("success") is True:
                    sent.accepted.add(record_id)
                    continue
                code, message = first_error(row.get("errors"))
                if code == LOCKED:
                    sent.reason = f"{code}: {message}"
                else:
                    sent.refused[record_id] = row.get("errors")
        return sent

    async def _read(self, what: _Field, holders: Sequence[str]) -> dict[str, Row]:
        """Return each holder's row by the first 15 characters of the holder's id."""
        return {row[what.holder][:15]: row for row in await self._rows(what.query, what.holder, holders)}

    async def _rows(self, query: Query, field: str, ids: Sequence[str]) -> list[Row]:
        parts = await asyncio.gather(*(self._session.rows(chunk) for chunk in soql.in_chunks(query, field, ids)))
        return [row for part in parts for row in part]

    # Records that need a new owner.

    async def _unfit(self, successors: Sequence[str]) -> dict[str, Refused]:
        """Return the successors that cannot take records over, and why."""
        users, logins = await asyncio.gather(self._read(_ACTIVE, successors), self._read(_FROZEN, successors))
        unfit: dict[str, Refused] = {}
        for each in successors:
            user, login = users.get(each[:15]), logins.get(each[:15])
            if user is None or not user["IsActive"]:
                unfit[each] = Refused(
                    "INACTIVE_SUCCESSOR", f"the successor {each} is inactive or gone", "Choose an active successor."
                )
            elif login is not None and login["IsFrozen"]:
                unfit[each] = Refused(
                    "FROZEN_SUCCESSOR", f"the successor {each} is frozen", "Choose a successor who can sign in."
                )
        return unfit

    async def _move(self, sobject: str, pending: dict[str, _Move], tallies: Mapping[str, _Tally]) -> None:
        """Move records of one object, until each has moved or failed, or patience ends."""
        done = BUSINESS[sobject]
        query = Query(f"Id, OwnerId, {done}", sobject)

        async def settle(sent: _Sent) -> None:
            rows = {row["Id"][:15]: row for row in await self._rows(query, "Id", list(pending))}
            for record_id, move in list(pending.items()):
                row, tally = rows.get(record_id[:15]), tallies[move.holder]
                if row is not None and _same(row["OwnerId"], move.successor):
                    tally.moved[sobject] += 1
                elif row is not None and _same(row["OwnerId"], move.holder) and not row[done]:
                    if record_id in sent.refused:
                        tally.failed[record_id] = refused(sent.refused[record_id])
                    elif record_id in sent.accepted:
                        tally.later = _UNDONE
                    else:
                        continue
                # Closed, deleted or given to somebody else, it is not ours to move any more.
                del pending[record_id]

        async def once_more() -> None:
            values = {record_id: move.successor for record_id, move in pending.items()}
            sent = await self._send(sobject, "OwnerId", values)
            await settle(sent)
            sent.go_on(unfinished=bool(pending))

        try:
            if pending:
                await settle(_Sent())
            if pending:
                await self._session.tuning.retrying()(_Unfinished, once_more)
        except (_Unfinished, Transient) as error:
            for move in pending.values():
                tallies[move.holder].later = str(error)
        except Permanent as error:
            # What has moved by now, of this object or another, has moved and is counted.
            refusal = _refusal(error)
            for record_id, move in pending.items():
                tallies[move.holder].failed[record_id] = refusal


def _by_object(transfers: Sequence[Transfer], tallies: Mapping[str, _Tally]) -> dict[str, dict[str, _Move]]:
    """Return the moves by object type and record; what cannot be moved at all is noted as failed."""
    moves: dict[str, dict[str, _Move]] = {sobject: {} for sobject in BUSINESS}
    for transfer in transfers:
        for sobject, record_ids in transfer.records.items():
            for record_id in record_ids:
                if sobject in BUSINESS and soql.is_id(record_id):
                    moves[sobject][record_id] = _Move(transfer.holder, transfer.successor)
                else:
                    tallies[transfer.holder].failed[record_id] = Refused("NO_SUCH_RECORD", _NOT_OURS, _BY_HAND)
    return moves


_UNDONE: Final = "Salesforce accepted the change, but it reads back as before: somebody may have undone it just now."
_NOT_OURS: Final = "Reclaim hands over no such record"
_BY_HAND: Final = "Give the record to somebody in the org, then retry."
_READ_AGAIN: Final = "The account is gone or was never there: scan again."


def _failure(error: Transient | Permanent) -> Refused | TryLater:
    return TryLater(str(error)) if isinstance(error, Transient) else _refusal(error)


def _refusal(error: Permanent) -> Refused:
    if isinstance(error, SignInRefused):
        return Refused("SIGN_IN_REFUSED", str(error), "Correct the connection's credentials, test it, then retry.")
    if isinstance(error, NotReadable):
        return Refused(error.code or "REFUSED", str(error), "Test the connection; it lists what is missing.")
    return Refused("REFUSED", str(error), "Test the connection, mend what it lists, then retry.")


def _chunks(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    return (items[start : start + size] for start in range(0, len(items), size))


def _is_user_id(text: str) -> bool:
    return soql.is_id(text) and text.startswith("005")


def _same(one: str, other: str) -> bool:
    """Tell whether two ids name one record; the first 15 characters do, whichever form each has."""
    return one[:15] == other[:15]
