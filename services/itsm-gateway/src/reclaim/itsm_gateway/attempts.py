"""Trying on a ticket of its own what reading does not show: opening, commenting, tags, closing and reopening."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from datetime import datetime
from typing import Final

from reclaim.connectors.itsm.base import tried
from reclaim.connectors.itsm.ports import (
    TEST_TAG,
    Deed,
    PermissionResult,
    Refused,
    ServiceDesk,
    TicketDraft,
    TicketRef,
)

WHAT: Final[Mapping[Deed, str]] = {
    "open": "open a ticket",
    "tag": "set its tag and read it",
    "comment": "comment on it",
    "close": "close it",
    "reopen": "reopen it",
}
AGAIN: Final = "close it for good"
LEFT: Final = "close what an earlier test left open"
_TEXT: Final = "Reclaim tries what it is allowed to do here. Nothing depends on this ticket."


class Attempt:
    """One round of trying; the ticket is closed at its end, whatever could not be done.

    Args:
        desk: where.
        permissions: what each deed takes there, for whoever has to allow it.
        token: makes the marks of its comments its own.
        patience: seconds that each call has.
    """

    def __init__(self, desk: ServiceDesk, permissions: Mapping[Deed, str], token: str, *, patience: float) -> None:
        self._desk = desk
        self._permissions = permissions
        self._token = token
        self._patience = patience
        self.results: list[PermissionResult] = []

    async def open(self, draft: TicketDraft) -> TicketRef | None:
        """Open the ticket; None if that failed, and then nothing else can be tried."""
        opened: list[TicketRef] = []

        async def opens() -> str:
            opened.append(await self._desk.create(draft))
            return f"Ticket {opened[0].number} was opened."

        await self._try("open", opens)
        if opened:
            return opened[0]
        for deed in WHAT:
            if deed != "open":
                self._leave_out(deed, "there is no ticket to try it on")
        return None

    async def use(self, ref: TicketRef) -> bool:
        """Try everything else, and close the ticket; tell whether it is closed."""

        async def reads() -> str:
            if not (await self._desk.read_decision(ref)).test:
                raise Refused(f"{ref.number} does not show the tag {TEST_TAG} that it was given.", "")
            return f"The tag {TEST_TAG} is there, and can be read."

        async def comments() -> str:
            await self._desk.comment(ref, _TEXT, mark=self._mark("comment"))
            return "The comment is there."

        async def reopens() -> str:
            await self._desk.reopen(ref, _TEXT, mark=self._mark("reopen"))
            if (await self._desk.read_decision(ref)).closed:
                raise Refused(f"{ref.number} was to be reopened, and is still closed.", "")
            return "It was open again."

        await self._try("tag", reads)
        await self._try("comment", comments)
        if not await self._try("close", self._closing(ref, "close")):
            self._leave_out("reopen", "it could not be closed")
            return await self._close_for_good(ref)
        await self._try("reopen", reopens)
        return await self._close_for_good(ref)

    async def clear_away(self, ref: TicketRef | None, reference: str, since: datetime) -> bool:
        """Close a ticket that an earlier round left, if there is one; tell whether none is open.

        Without a `ref` it is looked for by its reference.
        """
        found = [ref]

        async def looks() -> str:
            if ref is None:
                found[0] = await self._desk.find_by_case(reference, since=since)
            return ""

        looked = await within(LEFT, looks, self._patience)
        if not looked.ok:
            self.results.append(looked)
        elif found[0] is not None:
            return await self._close_for_good(found[0], what=LEFT)
        return looked.ok

    async def _close_for_good(self, ref: TicketRef, *, what: str = AGAIN) -> bool:
        """Close a ticket if it is open; what came of it is worth a line if it was."""
        still_open = True

        async def ends() -> str:
            nonlocal still_open
            if not (await self._desk.read_decision(ref)).closed:
                await self._closing(ref, "end")()
            still_open = False
            return f"{ref.number} is closed."

        found = await within(what, ends, self._patience)
        if still_open:
            found = replace(
                found, remedy=f"{found.remedy} {ref.number} is left: close it by hand, or test again.".strip()
            )
        self.results.append(found)
        return not still_open

    def _closing(self, ref: TicketRef, said: str) -> Callable[[], Awaitable[str]]:
        async def closes() -> str:
            await self._desk.close(ref, _TEXT, mark=self._mark(said))
            if not (await self._desk.read_decision(ref)).closed:
                raise Refused(f"{ref.number} was to be closed, and is still open.", "")
            return "It was closed."

        return closes

    async def _try(self, deed: Deed, attempt: Callable[[], Awaitable[str]]) -> bool:
        found = await within(WHAT[deed], attempt, self._patience)
        if not found.ok:
            found = replace(found, remedy=f"{found.remedy} This takes {self._permissions[deed]}.".strip())
        self.results.append(found)
        return found.ok

    def _leave_out(self, deed: Deed, why: str) -> None:
        remedy = f"Mend that first. This takes {self._permissions[deed]}."
        self.results.append(PermissionResult(WHAT[deed], False, f"Not tried: {why}.", remedy))

    def _mark(self, said: str) -> str:
        return f"lr-note-try-{self._token}-{said}"


async def within(what: str, attempt: Callable[[], Awaitable[str]], patience: float) -> PermissionResult:
    """Try one thing; return what came of it, or that the desk did not answer within `patience` seconds."""
    try:
        async with asyncio.timeout(patience):
            return await tried(what, attempt)
    except TimeoutError:
        said = f"The desk did not answer within {patience:g} s."
        return PermissionResult(what, False, said, "Check its address, and try again.")
