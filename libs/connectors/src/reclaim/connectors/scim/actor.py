"""Switches accounts of one SCIM service off and on.

Each account is read, written only if it is not yet as asked, and read back: a write that got no answer is never sent
again before a read has shown that it did not happen, and while that is not known, an error of whatever kind is
`TryLater`: to be refused would say that nothing was done. SCIM has no cheaper licence and no records, and no freeze:
switching an account off may free its seat or delete its data at once. Where the administrator states that it does no
harm and can be undone, it serves as the freeze; what the end of grace then does is to find it done.
"""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Mapping, Sequence
from typing import Final

from reclaim.common.errors import Permanent, Transient
from reclaim.connectors.errors import Busy, SignInRefused, WriteForbidden
from reclaim.connectors.ports import (
    NO_SUCH_ACCOUNT,
    ActionResult,
    Done,
    Downgrade,
    Grants,
    Guard,
    HandedOver,
    Refused,
    Stopped,
    Transfer,
    TryLater,
    unguarded,
)
from reclaim.connectors.scim.reader import active, is_own
from reclaim.connectors.scim.refusals import ScimError
from reclaim.connectors.scim.session import Resource, WriteSession

NO_FREEZE: Final = Refused(
    "NO_FREEZE",
    "SCIM knows no freeze: an account is on or off, and switching it off may free its seat or delete its data at once",
    "If switching off keeps everything and can be undone in this application, set freeze_by_deactivation to true on "
    "the connection, then retry; if not, let the rule free its seats by a task for a person, which needs no freeze.",
)
_NO_DOWNGRADE: Final = Refused(
    "NO_DOWNGRADE",
    "SCIM knows no licences to move between",
    "Let the rule deactivate, or name a task for a person; or keep this seat.",
)
_NO_RECORDS: Final = Refused(
    "NO_RECORDS", "SCIM knows no records", "Hand them over in the application, then go on without."
)
_CHANGED_MEANWHILE: Final = 412


class _Unfinished(Exception):
    """The account is neither as asked nor refused; says why. It only drives the next attempt.

    `retry_after` are the seconds that the service asked for, if it did.
    """

    def __init__(self, reason: str, retry_after: float | None) -> None:
        super().__init__(reason)
        self.retry_after = retry_after


class ScimActor:
    """The `SeatActor` of a SCIM service."""

    def __init__(self, session: WriteSession, guard: Guard = unguarded) -> None:
        self._session = session
        self._guard = guard
        # No call of ours waits behind another one after the guard was asked about it.
        self._turns = asyncio.Semaphore(session.tuning.calls)

    def guarded(self, guard: Guard) -> ScimActor:
        """Return this actor with another guard, over the same connections to the service."""
        twin = copy.copy(self)
        twin._guard = guard  # noqa: SLF001  it is one of ours
        return twin

    async def freeze(self, holders: Sequence[str]) -> Mapping[str, ActionResult]:
        """Set `active` to false, where that was stated to be a freeze."""
        if not self._session.profile.freeze_by_deactivation:
            return dict.fromkeys(holders, NO_FREEZE)
        return await self._all(holders, value=False)

    async def unfreeze(self, holders: Sequence[str]) -> Mapping[str, ActionResult]:
        """Set `active` to true, where setting it to false was the freeze."""
        if not self._session.profile.freeze_by_deactivation:
            return dict.fromkeys(holders, NO_FREEZE)
        return await self._all(holders, value=True)

    async def deactivate(self, holders: Sequence[str]) -> Mapping[str, ActionResult]:
        """Set `active` to false."""
        return await self._all(holders, value=False)

    async def reactivate(self, holders: Sequence[str]) -> Mapping[str, ActionResult]:
        """Set `active` to true."""
        return await self._all(holders, value=True)

    async def downgrade(self, downgrades: Sequence[Downgrade]) -> Mapping[str, ActionResult]:
        """SCIM has no licences."""
        return {each.holder: _NO_DOWNGRADE for each in downgrades}

    async def upgrade(self, images: Mapping[str, Grants]) -> Mapping[str, ActionResult]:
        """SCIM has no licences."""
        return dict.fromkeys(images, _NO_DOWNGRADE)

    async def hand_over(self, transfers: Sequence[Transfer]) -> Mapping[str, HandedOver | Refused | TryLater]:
        """SCIM has no records."""
        return {each.holder: _NO_RECORDS for each in transfers}

    async def close(self) -> None:
        """Close the connections to the service."""
        await self._session.close()

    async def _all(self, holders: Sequence[str], *, value: bool) -> dict[str, ActionResult]:
        asked = list(dict.fromkeys(holders))
        return dict(zip(asked, await asyncio.gather(*(self._one(each, value=value) for each in asked)), strict=True))

    async def _one(self, holder: str, *, value: bool) -> ActionResult:
        """Bring one account to be as asked, and tell what became of it; never raises for it."""
        if not holder:
            return _GONE
        try:
            async with self._turns:
                user = await self._session.user(holder)
            if user is None:
                return _GONE
            if not value and is_own(user, self._session.profile.run_as):
                return Refused(
                    "OWN_USER", "Reclaim signs in as this user and does not deactivate it", "Leave it alone."
                )
            if active(user) == value:
                return Done(changed=False, before={"active": value})
            return await self._switch(user, value=value)
        except (Transient, Permanent) as error:
            return _failure(error)

    async def _switch(self, user: Resource, *, value: bool) -> ActionResult:
        """Write until the account reads as asked, or is refused, or patience ends; read before each further write."""
        present, holder = user, user["id"]
        sent = False  # whether something may have been written

        async def once_more() -> ActionResult:
            async with self._turns:
                return await attempt()

        async def attempt() -> ActionResult:
            nonlocal present, sent
            # Asked for here, its errors are not taken for those of the write.
            await self._session.features()
            failure: Transient | Permanent | None = None
            try:
                await self._session.set_active(present, value=value, guard=self._guard)
            except (SignInRefused, Stopped, WriteForbidden):
                raise
            except (Transient, Permanent) as error:
                failure = error
            doubt = sent
            sent = sent or _may_be_done(failure)
            back = await self._session.user(holder)
            if back is None and sent:
                # Some services do not show an account any more that is off.
                return TryLater(_UNDONE) if value else Done(changed=True, before={"active": True})
            if back is None:
                return _GONE
            if active(back) == value:
                return Done(changed=sent, before={"active": not value})
            if failure is None:
                return TryLater(_UNDONE)
            if isinstance(failure, Busy) or (isinstance(failure, ScimError) and failure.answered == _CHANGED_MEANWHILE):
                present = back
                raise _Unfinished(str(failure), failure.retry_after if isinstance(failure, Busy) else None)
            if isinstance(failure, ScimError) and not doubt:
                return failure.as_refused()
            return TryLater(str(failure))

        try:
            return await self._session.tuning.retrying()(self._worth_repeating, once_more)
        except _Unfinished as unfinished:
            return TryLater(str(unfinished))
        except Permanent as error:
            if sent:
                return TryLater(str(error))
            raise

    def _worth_repeating(self, error: Exception) -> bool | float:
        if not isinstance(error, _Unfinished):
            return False
        wait = error.retry_after
        return True if wait is None else wait if wait <= self._session.tuning.patience else False


def _may_be_done(failure: Transient | Permanent | None) -> bool:
    """Tell whether a write that ended in this way may have been carried out: accepted, or with no clear answer."""
    if isinstance(failure, Busy):
        return failure.unsure
    return not isinstance(failure, ScimError)


_GONE: Final = Refused(NO_SUCH_ACCOUNT, "the application has no such account", "The account is gone: scan again.")
_UNDONE: Final = "The service accepted the change, but it reads back as before: somebody may have undone it just now."


def _failure(error: Transient | Permanent) -> Refused | TryLater:
    if isinstance(error, Transient):
        return TryLater(str(error))
    if isinstance(error, ScimError):
        return error.as_refused()
    if isinstance(error, SignInRefused):
        return Refused("SIGN_IN_REFUSED", str(error), "Correct the connection's credentials, test it, then retry.")
    return Refused("REFUSED", str(error), "Test the connection, mend what it lists, then retry.")
