"""Changes accounts in one Salesforce org: freeze, unfreeze, deactivate, downgrade, give back, hand over.

Salesforce has no compare-and-set for users, so every change reads first, writes, and reads back; what happens
between the first read and the write cannot be seen, and the README says how small that window is. A write that got
no answer is never sent again before a read has shown that it did not happen. What is frozen is ours to take for done,
or to undo, only while Salesforce names nobody else as the one who changed it last. Once something may have been
written for a holder, an error of a call, whatever its kind, is `TryLater` for that holder: to be refused would say that
nothing was done. Setup objects (User, UserLogin) and business records never share a call.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeVar

from reclaim.common.errors import Permanent, Transient
from reclaim.connectors.errors import Busy, SignInRefused
from reclaim.connectors.ports import (
    FROZEN_BY_ANOTHER,
    NO_SUCH_ACCOUNT,
    ActionResult,
    Done,
    Downgrade,
    Grants,
    Guard,
    HandedOver,
    Refused,
    Transfer,
    TryLater,
    unguarded,
)
from reclaim.connectors.salesforce import soql
from reclaim.connectors.salesforce.errors import LOCKED, NotReadable, first_error
from reclaim.connectors.salesforce.reader import BUSINESS
from reclaim.connectors.salesforce.refusals import refused
from reclaim.connectors.salesforce.session import ASSIGNED, ROWS_PER_WRITE, Row, WriteSession
from reclaim.connectors.salesforce.soql import Query

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Field:
    """One field of one record for each holder: where it is, and how to ask for it and what belongs to it."""

    sobject: str
    name: str
    holder: str
    more: tuple[str, ...] = ()

    @property
    def query(self) -> Query:
        return Query(", ".join(dict.fromkeys(("Id", self.holder, self.name, *self.more))), self.sobject)


_FROZEN: Final = _Field("UserLogin", "IsFrozen", "UserId", ("LastModifiedById",))
_ACTIVE: Final = _Field("User", "IsActive", "Id")
_PROFILE: Final = _Field("User", "ProfileId", "Id")
_SETS: Final = "PermissionSetAssignment"
_ADD_ONS: Final = "PermissionSetLicenseAssign"

Pair = tuple[str, str]
"""A user's id, and the id of what is assigned to that user."""

_Failed = dict[str, Refused | TryLater]


class _Unfinished(Exception):
    """Some records are neither done nor refused; says why. It only drives the next attempt."""


class _Unread(Exception):
    """What was written could not be read back; says why. It ends the attempts: what was done is for the next call."""


@dataclass(slots=True)
class _Sent:
    """What one attempt heard, by record: those accepted, those refused with their errors, and why others are open.

    `unsure` are those that got no answer and may have been changed; `unread` is why reading back failed.
    """

    accepted: set[str] = field(default_factory=set)
    refused: dict[str, object] = field(default_factory=dict)
    unsure: set[str] = field(default_factory=set)
    reason: str = ""
    stopped_by: Transient | Permanent | None = None
    unread: Transient | Permanent | None = None

    @property
    def changed(self) -> set[str]:
        """Those that were changed, or may have been."""
        return self.accepted | self.unsure

    def later(self, record: str) -> TryLater:
        """Return why a record that may have been changed does not show so."""
        if record in self.refused:
            return TryLater(": ".join(first_error(self.refused[record])))
        return TryLater(_UNDONE if self.unread is None else str(self.unread))

    def stop_if_unheard(self) -> None:
        """Raise what stopped the attempt before the org heard any of it: there is nothing to read back."""
        if self.stopped_by is not None and not (self.changed or self.refused or self.reason):
            raise self.stopped_by

    def go_on(self, *, unfinished: bool) -> None:
        """Raise what ends or repeats the attempt, now that reading back has settled what it could."""
        if unfinished and self.stopped_by is not None:
            raise self.stopped_by
        if unfinished and self.unread is not None:
            raise _Unread(str(self.unread))
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

    def __init__(self, session: WriteSession, guard: Guard = unguarded) -> None:
        self._session = session
        self._guard = guard

    def guarded(self, guard: Guard) -> SalesforceActor:
        """Return this actor with another guard, over the same connections to the org."""
        return SalesforceActor(self._session, guard)

    async def freeze(self, holders: Sequence[str]) -> Mapping[str, ActionResult]:
        """Set `UserLogin.IsFrozen`: the holder can no longer sign in, the licence stays in use.

        Where it is set already, `LastModifiedById` tells whether it was us.
        """
        return await self._set(_FROZEN, holders, value=True, never_self="freeze")

    async def unfreeze(self, holders: Sequence[str]) -> Mapping[str, ActionResult]:
        """Clear `UserLogin.IsFrozen`, unless `LastModifiedById` says that somebody else changed it after us."""
        return await self._set(_FROZEN, holders, value=False)

    async def deactivate(self, holders: Sequence[str]) -> Mapping[str, ActionResult]:
        """Clear `User.IsActive`, which frees the licence; what blocks it is refused in Salesforce's own words."""
        return await self._set(_ACTIVE, holders, value=False, never_self="deactivate")

    async def reactivate(self, holders: Sequence[str]) -> Mapping[str, ActionResult]:
        """Set `User.IsActive`, then clear `UserLogin.IsFrozen`; refused when no licence is free."""
        written: set[str] = set()
        results = dict(await self._set(_ACTIVE, holders, value=True, written=written))
        return await self._let_in(results, list(results), written)

    async def downgrade(self, downgrades: Sequence[Downgrade]) -> Mapping[str, ActionResult]:
        """Take away what needs another licence, change `User.ProfileId`, then clear `UserLogin.IsFrozen`.

        Salesforce does not tell which permission set licences the cheaper licence may hold: all of them go, with the
        permission sets that stand on them.
        """
        results: dict[str, ActionResult] = {}
        for each in downgrades:
            if not _is_user_id(each.holder):
                results[each.holder] = Refused("MALFORMED_ID", f"{each.holder!r} is not a user's id", _READ_AGAIN)
        fit = [each for each in downgrades if each.holder not in results]
        groups = dict.fromkeys((each.product, each.profile) for each in fit)
        for product, profile in groups:
            holders = [each.holder for each in fit if (each.product, each.profile) == (product, profile)]
            try:
                results |= await self._downgrade(holders, product, profile)
            except (Transient, Permanent) as error:
                # It comes from the readings before the first write.
                results |= {holder: _failure(error) for holder in holders}
        return results

    async def _downgrade(self, holders: Sequence[str], product: str, profile: str) -> Mapping[str, ActionResult]:
        target = await self._profile_of(product, profile)
        if isinstance(target, Refused):
            return dict.fromkeys(holders, target)
        profile_id, licence_id = target
        results: dict[str, ActionResult] = {}
        me = await self._session.user_id()
        active = await self._read(_ACTIVE, holders)
        for holder in holders:
            if _same(holder, me):
                results[holder] = Refused(
                    "OWN_USER", "Reclaim signs in as this user and does not downgrade it", "Leave it alone."
                )
            elif holder[:15] not in active or not active[holder[:15]]["IsActive"]:
                results[holder] = Refused("INACTIVE_USER", "the account is inactive or gone", _READ_AGAIN)
        left = [holder for holder in holders if holder not in results]
        rows = await self._rows(
            Query(
                "AssigneeId, PermissionSetId, PermissionSet.LicenseId",
                _SETS,
                ("PermissionSet.IsOwnedByProfile = false",),
            ),
            "AssigneeId",
            left,
        )
        taken: set[Pair] = {
            (row["AssigneeId"], row["PermissionSetId"])
            for row in rows
            if row["PermissionSet"]["LicenseId"] not in (None, licence_id)
        }
        add_ons = set(await self._assigned(_ADD_ONS, left))
        changed = {holder[:15] for holder, _ in taken | add_ons}
        written: set[str] = set()
        for sobject, pairs in ((_SETS, taken), (_ADD_ONS, add_ons)):
            mine = [pair for pair in pairs if _among(pair, left)]
            failed = await self._settle(sobject, mine, written, there=False)
            results |= {holder: failed[holder[:15]] for holder in left if holder[:15] in failed}
            left = [holder for holder in left if holder not in results]
        results |= await self._set(_PROFILE, left, value=profile_id, never_self="downgrade", written=written)
        return await self._let_in(results, left, written, changed)

    async def upgrade(self, images: Mapping[str, Grants]) -> Mapping[str, ActionResult]:
        """Put back the profile, the permission set licences and the permission sets, then let the holder sign in."""
        results: dict[str, ActionResult] = {}
        for profile_id in dict.fromkeys(image.profile for image in images.values()):
            alike = {holder: image for holder, image in images.items() if image.profile == profile_id}
            results |= await self._upgrade(alike, profile_id)
        return results

    async def _upgrade(self, images: Mapping[str, Grants], profile_id: str) -> dict[str, ActionResult]:
        written: set[str] = set()
        results = dict(await self._set(_ACTIVE, list(images), value=True, written=written))
        left = [holder for holder, result in results.items() if isinstance(result, Done)]
        results |= await self._set(_PROFILE, left, value=profile_id, written=written)
        left = [holder for holder in left if isinstance(results[holder], Done)]
        changed = {holder[:15] for holder in left if _changed(results[holder])}
        wanted = {
            _ADD_ONS: {(holder, each) for holder in left for each in images[holder].permission_set_licences},
            _SETS: {(holder, each) for holder in left for each in images[holder].permission_sets},
        }
        for sobject, pairs in wanted.items():
            try:
                present = {_short(pair) for pair in await self._assigned(sobject, left)}
            except (Transient, Permanent) as error:
                return results | {holder: _failure(error, tried=holder[:15] in written) for holder in left}
            missing = [pair for pair in pairs if _short(pair) not in present and _among(pair, left)]
            changed |= {holder[:15] for holder, _ in missing}
            failed = await self._settle(sobject, missing, written, there=True)
            results |= {holder: failed[holder[:15]] for holder in left if holder[:15] in failed}
            left = [holder for holder in left if isinstance(results[holder], Done)]
        return await self._let_in(results, left, written, changed)

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

    # Licences.

    async def _profile_of(self, product: str, name: str) -> tuple[str, str] | Refused:
        """Return the ids of the profile that assigns a licence, and of the licence."""
        rows = await self._session.rows(
            Query(
                "Id, Name, UserLicenseId, UserLicense.Name, UserLicense.LicenseDefinitionKey",
                "Profile",
                ("UserLicenseId != null",),
            )
        )
        of_licence = [
            row for row in rows if product in (row["UserLicense"]["LicenseDefinitionKey"], row["UserLicense"]["Name"])
        ]
        found = [row for row in of_licence if name in ("", row["Name"])]
        if len(found) == 1:
            return found[0]["Id"], found[0]["UserLicenseId"]
        there = ", ".join(sorted(row["Name"] for row in of_licence)) or "none"
        what = f"the profile {name!r}" if name else "one profile to choose"
        return Refused(
            "NO_PROFILE",
            f"the org does not have {what} for the licence {product}; it has: {there}",
            "Give the rule a profile of the cheaper licence; keep the seat, or have this case's holder moved by hand.",
        )

    async def _let_in(
        self,
        results: dict[str, ActionResult],
        holders: Sequence[str],
        written: set[str],
        changed: Collection[str] = (),
    ) -> dict[str, ActionResult]:
        """Let those holders sign in who are done so far, and return the results with that in them.

        `changed` has the first 15 characters of the ids of those for whom more was done than their result says,
        `written` as in `_set`.
        """
        done = [holder for holder in holders if isinstance(results[holder], Done)]
        for holder, thawed in (await self._set(_FROZEN, done, value=False, written=written)).items():
            so_far = results[holder]
            if isinstance(thawed, Done) and isinstance(so_far, Done):
                any_changed = so_far.changed or thawed.changed or holder[:15] in changed
                results[holder] = Done(any_changed, {**so_far.before, **thawed.before})
            else:
                results[holder] = thawed
        return results

    async def _assigned(self, sobject: str, holders: Sequence[str]) -> dict[Pair, str]:
        """Return the ids of assignments, by who has them and what they assign."""
        field = ASSIGNED[sobject]
        rows = await self._rows(Query(f"Id, AssigneeId, {field}", sobject), "AssigneeId", holders)
        return {(row["AssigneeId"], row[field]): row["Id"] for row in rows}

    async def _settle(self, sobject: str, pairs: Iterable[Pair], written: set[str], *, there: bool) -> _Failed:
        """Make assignments be there or not, until each is so or refused, or patience ends.

        Return the holders, by the first 15 characters of their ids, for whom this did not come about; `written` is
        as in `_set`.
        """
        pending = {_short(pair): pair for pair in pairs}
        failed: _Failed = {}
        doubt: set[str] = set()

        async def once_more() -> None:
            present = await self._present(sobject, pending)
            todo = {" ".join(short): short for short in pending if (short in present) is not there}
            sent = await self._send_each(
                list(todo),
                (lambda names: self._session.assign(sobject, [pending[todo[name]] for name in names]))
                if there
                else (lambda names: self._session.unassign([present[todo[name]] for name in names])),
            )
            sent.stop_if_unheard()
            doubt.update(sent.unsure)
            written.update(todo[name][0] for name in sent.changed)
            try:
                present = await self._present(sobject, pending)
            except (Transient, Permanent) as error:
                sent.unread = error
            for short in list(pending):
                name = " ".join(short)
                if sent.unread is None and (short in present) is there:
                    del pending[short]
                elif name in sent.refused and name not in doubt:
                    failed[short[0]] = refused(sent.refused[name])
                    del pending[short]
                elif name in sent.refused or name in sent.accepted:
                    failed.setdefault(short[0], sent.later(name))
                    del pending[short]
            sent.go_on(unfinished=bool(pending))

        try:
            if pending:
                await self._session.tuning.retrying()(_Unfinished, once_more)
        except (_Unfinished, _Unread) as left_open:
            failed |= {short[0]: TryLater(str(left_open)) for short in pending}
        except (Transient, Permanent) as error:
            failed |= {short[0]: _failure(error, tried=short[0] in written) for short in pending}
        return failed

    async def _present(self, sobject: str, pending: Mapping[Pair, Pair]) -> dict[Pair, str]:
        holders = list(dict.fromkeys(holder for holder, _ in pending.values()))
        return {_short(pair): row_id for pair, row_id in (await self._assigned(sobject, holders)).items()}

    # One field for many holders.

    async def _set(
        self,
        what: _Field,
        holders: Sequence[str],
        *,
        value: bool | str,
        never_self: str | None = None,
        written: set[str] | None = None,
    ) -> Mapping[str, ActionResult]:
        """Set one field for many holders, and tell what became of each; never raises for them.

        `written` has the first 15 characters of the ids of those for whom the action may have written something by
        now; those for whom this does are added.
        """
        written = set() if written is None else written
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
            me = await self._session.user_id()
            if never_self is not None:
                for holder in [each for each in asked if _same(each, me)]:
                    asked.remove(holder)
                    results[holder] = Refused(
                        "OWN_USER", f"Reclaim signs in as this user and does not {never_self} it", "Leave it alone."
                    )
            rows = await self._read(what, asked)
        except (Transient, Permanent) as error:
            return results | {holder: _failure(error, tried=holder[:15] in written) for holder in asked}
        pending: dict[str, Row] = {}
        for holder in asked:
            row = rows.get(holder[:15])
            if row is None:
                results[holder] = Refused(NO_SUCH_ACCOUNT, f"the org has no {what.sobject} of this user", _READ_AGAIN)
            elif _by_another(what, row, me):
                results[holder] = _frozen_by(row)
            elif row[what.name] == value:
                results[holder] = Done(changed=False, before={what.name: value})
            else:
                pending[holder] = row
        return results | await self._write(what, pending, me, written, value=value)

    async def _write(
        self, what: _Field, pending: dict[str, Row], me: str, written: set[str], *, value: bool | str
    ) -> dict[str, ActionResult]:
        """Set the field on records by holder, given as read, until each is done or refused, or patience ends.

        `pending` is consumed: a holder leaves it only with a read that shows the field as asked, with a refusal, or
        with the org's word that it was changed, which reading back did not show. `written` is as in `_set`.
        """
        results: dict[str, ActionResult] = {}
        doubt: set[str] = set()

        async def once_more() -> None:
            sent = await self._send(what.sobject, what.name, {row["Id"]: value for row in pending.values()})
            sent.stop_if_unheard()
            doubt.update(sent.unsure)
            written.update(holder[:15] for holder, row in pending.items() if row["Id"] in sent.changed)
            rows: Mapping[str, Row] = {}
            try:
                rows = await self._read(what, list(pending))
            except (Transient, Permanent) as error:
                sent.unread = error
            for holder, before in list(pending.items()):
                row, row_id = rows.get(holder[:15]), before["Id"]
                if row is not None and _by_another(what, row, me):
                    results[holder] = _frozen_by(row)
                elif row is not None and row[what.name] == value:
                    # Refused, locked or never sent, and yet as asked: somebody else did it in between.
                    changed = row_id in sent.accepted or row_id in doubt
                    results[holder] = Done(changed=changed, before={what.name: before[what.name]})
                elif row_id in sent.refused and row_id not in doubt:
                    results[holder] = refused(sent.refused[row_id])
                elif row_id in sent.refused or row_id in sent.accepted:
                    results[holder] = sent.later(row_id)
                else:
                    continue
                del pending[holder]
            sent.go_on(unfinished=bool(pending))

        try:
            if pending:
                await self._session.tuning.retrying()(_Unfinished, once_more)
        except (_Unfinished, _Unread) as left_open:
            results |= {holder: TryLater(str(left_open)) for holder in pending}
        except (Transient, Permanent) as error:
            results |= {holder: _failure(error, tried=holder[:15] in written) for holder in pending}
        return results

    async def _send(self, sobject: str, field: str, values: Mapping[str, bool | str]) -> _Sent:
        """Send each record once."""

        async def update(ids: Sequence[str]) -> Sequence[Row]:
            answer = await self._session.update(sobject, field, {each: values[each] for each in ids})
            return list(answer.values())

        return await self._send_each(list(values), update)

    async def _send_each(
        self, names: Sequence[str], call: Callable[[Sequence[str]], Awaitable[Sequence[Row]]]
    ) -> _Sent:
        """Send what is named once, 200 a call, as long as the guard lets it.

        After an error that the next call would meet too, no more is sent.
        """
        sent = _Sent()
        for chunk in _chunks(names, ROWS_PER_WRITE):
            try:
                await self._guard()
                answer = await call(chunk)
            except Busy as error:
                sent.reason = str(error)
                if error.unsure:
                    sent.unsure.update(chunk)
                continue
            except (Transient, Permanent) as error:
                sent.stopped_by = error
                break
            for record_id, row in zip(chunk, answer, strict=True):
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
        doubt: set[str] = set()

        async def owners() -> dict[str, Row]:
            return {row["Id"][:15]: row for row in await self._rows(query, "Id", list(pending))}

        def settle(rows: Mapping[str, Row], sent: _Sent) -> None:
            for record_id, move in list(pending.items()):
                row, tally = rows.get(record_id[:15]), tallies[move.holder]
                still_ours = row is not None and _same(row["OwnerId"], move.holder) and not row[done]
                if row is not None and _same(row["OwnerId"], move.successor):
                    tally.moved[sobject] += 1
                elif still_ours or sent.unread is not None:
                    if record_id in sent.refused and record_id not in doubt:
                        tally.failed[record_id] = refused(sent.refused[record_id])
                    elif record_id in sent.refused or record_id in sent.accepted:
                        tally.later = sent.later(record_id).reason
                    else:
                        continue
                # Closed, deleted or given to somebody else, it is not ours to move any more.
                del pending[record_id]

        async def once_more() -> None:
            values = {record_id: move.successor for record_id, move in pending.items()}
            sent = await self._send(sobject, "OwnerId", values)
            sent.stop_if_unheard()
            doubt.update(sent.unsure)
            rows: Mapping[str, Row] = {}
            try:
                rows = await owners()
            except (Transient, Permanent) as error:
                sent.unread = error
            settle(rows, sent)
            sent.go_on(unfinished=bool(pending))

        try:
            if pending:
                settle(await owners(), _Sent())
            if pending:
                await self._session.tuning.retrying()(_Unfinished, once_more)
        except (_Unfinished, _Unread, Transient) as error:
            for move in pending.values():
                tallies[move.holder].later = str(error)
        except Permanent as error:
            # What has moved by now, of this object or another, has moved and is counted.
            refusal = _refusal(error)
            for record_id, move in pending.items():
                if record_id in doubt:
                    tallies[move.holder].later = str(error)
                else:
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


def _failure(error: Transient | Permanent, *, tried: bool = False) -> Refused | TryLater:
    """Return what an error leads to; `tried`: something may have been written by then, which a refusal would deny."""
    return TryLater(str(error)) if tried or isinstance(error, Transient) else _refusal(error)


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


def _short(pair: Pair) -> Pair:
    return pair[0][:15], pair[1][:15]


def _among(pair: Pair, holders: Iterable[str]) -> bool:
    return pair[0][:15] in {holder[:15] for holder in holders}


def _changed(result: ActionResult) -> bool:
    return isinstance(result, Done) and result.changed


def _by_another(what: _Field, row: Row, me: str) -> bool:
    """Tell whether an account is frozen and somebody else changed its sign-in after us.

    Whose wrong passwords lock the account changes that record too, and freezes nothing.
    """
    changed_by = row.get("LastModifiedById")
    if what is not _FROZEN or not row["IsFrozen"] or changed_by is None:
        return False
    return not _same(changed_by, me) and not _same(changed_by, row["UserId"])


def _frozen_by(row: Row) -> Refused:
    return Refused(
        FROZEN_BY_ANOTHER,
        f"the account is frozen, and it was the user {row['LastModifiedById']} who changed its freeze or password lock "
        "last",
        "Ask that user. If the holder may sign in, unfreeze the account in the org, then retry.",
    )


def _same(one: str, other: str) -> bool:
    """Tell whether two ids name one record; the first 15 characters do, whichever form each has."""
    return one[:15] == other[:15]
