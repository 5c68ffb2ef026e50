"""The service desks that are connected: opened from what is stored, each with one client to one checked address."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final

import httpx
import msgspec
from sqlalchemy.exc import IntegrityError

from reclaim.common.db import Database, Unit
from reclaim.common.errors import Conflict, Invalid
from reclaim.common.http_client import open_client
from reclaim.common.outgoing import Outgoing
from reclaim.common.security import Sealer
from reclaim.common.timing import wall_milliseconds
from reclaim.connectors.itsm import templates
from reclaim.connectors.itsm.decisions import DecisionRules
from reclaim.connectors.itsm.ports import Json, PermissionResult, ServiceDesk, TicketDraft, TicketRef
from reclaim.connectors.itsm.profile import DeskProfile, Tuning
from reclaim.connectors.itsm.registry import PLATFORMS, open_desk, validate
from reclaim.itsm_gateway import delivery_store, setup_store, ticket_store, told_store
from reclaim.itsm_gateway.domain import Kind
from reclaim.itsm_gateway.ports import TicketReader, TicketState
from reclaim.itsm_gateway.ticket_store import Desk, Ticket
from reclaim.itsm_gateway.verdicts import ElsewhereNow, NotConnected

IN_FLIGHT: Final = 300.0
"""Seconds for which a client stays open after its connection was changed: no call that it carries lasts as long."""


DOWNGRADE_TO: Final = "downgrade_to"
"""What names, among the values of a ticket, the cheaper licence of its case's rule; empty where it names none."""


Adapter = Callable[[DeskProfile, httpx.AsyncClient, Tuning], ServiceDesk]


@dataclass(slots=True)
class _Opened:
    stored: Desk
    desk: ServiceDesk
    client: httpx.AsyncClient


class Desks:
    """Opens connections by their ids, and keeps them open: a desk that asked to be left alone is, whoever calls."""

    def __init__(
        self,
        database: Database,
        sealer: Sealer,
        outgoing: Outgoing,
        *,
        tuning: Tuning | None = None,
        adapter: Adapter = open_desk,
    ) -> None:
        """Open desks with `adapter`, as patient as `tuning` says."""
        self._adapter = adapter
        self._database = database
        self._sealer = sealer
        self._outgoing = outgoing
        self._tuning: Final = tuning or Tuning()
        self._opened: dict[str, _Opened] = {}
        self._aside: list[tuple[float, httpx.AsyncClient]] = []
        self._opening = asyncio.Lock()

    def open(self, connection_id: str) -> AbstractAsyncContextManager[TicketReader] | None:
        """Return a connection to read tickets through; see `ports.Desks`."""
        return self._reading(connection_id)

    async def connected(self, desk_id: str) -> ServiceDesk:
        """Return the adapter of a desk.

        Raises:
            NotConnected: there is no such desk.
            Permanent: its address may not be reached, or its credentials can no longer be opened.
        """
        return (await self._connected(desk_id)).desk

    async def of_ticket(self, ticket: Ticket) -> ServiceDesk:
        """Return the adapter of the desk that a ticket was opened on.

        Raises:
            ElsewhereNow: the connection leads to another place now, where the ticket's key means something else.
            NotConnected, Permanent: see `connected`.
        """
        opened = await self._connected(ticket.desk_id)
        check_place(opened.stored, ticket)
        return opened.desk

    async def _connected(self, desk_id: str) -> _Opened:
        async with self._opening:
            async with self._database.reading() as db:
                stored = await ticket_store.desk(db, desk_id)
            known = self._opened.get(desk_id)
            await self._close_aside(time.monotonic())
            if stored is None:
                self._put_aside(desk_id)
                raise NotConnected(desk_id)
            if known is None or known.stored != stored:
                self._put_aside(desk_id)
                profile = self.profile(stored)
                client = self.client(profile)
                known = _Opened(stored, self._adapter(profile, client, self._tuning), client)
                self._opened[desk_id] = known
            return known

    def profile(self, stored: Desk) -> DeskProfile:
        """Return what a stored desk says, with its credentials opened."""
        return DeskProfile(
            stored.platform,
            msgspec.json.decode(stored.settings, type=dict[str, str]),
            self._sealer.open(stored.credentials),
            rules_of(stored),
        )

    def check_address(self, profile: DeskProfile) -> None:
        """Refuse a desk whose address shows already that it may not be reached.

        Raises:
            AddressRefused: it may not.
        """
        self._outgoing.check(_address(profile))

    def client(self, profile: DeskProfile) -> httpx.AsyncClient:
        """Return a client for a desk's address.

        Raises:
            AddressRefused: it may not be reached.
        """
        return open_client(self._outgoing, _address(profile))

    async def store(self, unit: Unit, wanted: Desk, by: str) -> Desk:
        """Store a desk that is new (its `version` is 0) or that was read and changed; what failed there is tried again.

        Raises:
            Invalid, AddressRefused: something does not fit.
            Conflict: it would lead to another place while tickets are open at the one that it led to; or somebody else
                has changed it since it was read.
        """
        changed = replace(wanted, version=wanted.version + 1, changed_at=unit.now, changed_by=by)
        profile = self.profile(changed)
        check(changed, profile)
        self.check_address(profile)
        before = await ticket_store.desk(unit.db, changed.id)
        if before is not None and place_of(before) != place_of(changed):
            there = await ticket_store.unfinished(unit.db, changed.id, place_of(before))
            if there:
                raise Conflict(
                    f"{changed.id} has {there} ticket{'' if there == 1 else 's'} that would be looked for in another "
                    "place. Connect the other place under another name, or wait until the cases of these have ended."
                )
        try:
            saved = await ticket_store.save_desk(unit.db, changed)
        except IntegrityError:
            saved = False
        if not saved:
            raise Conflict(f"Somebody else has changed {changed.id} meanwhile. Look at how it is now, then try again.")
        await ticket_store.revive(unit.db, changed.id, wall_milliseconds())
        await announce(unit)
        return changed

    async def remove(self, unit: Unit, desk_id: str) -> bool:
        """Forget a desk with its credentials, its set-up and the secrets of its webhooks; tell whether it was stored.

        Its tickets stay as they are.
        """
        removed = await ticket_store.remove_desk(unit.db, desk_id)
        await announce(unit)
        await setup_store.remove(unit.db, desk_id)
        # Without a desk to read back from, whoever still has one would be taken at their word.
        await delivery_store.drop_secrets(unit.db, desk_id)
        return removed

    async def test(self, profile: DeskProfile) -> Sequence[PermissionResult]:
        """Try everything that a connection needs; see `ServiceDesk.test_connection`."""
        validate(profile)
        async with self.client(profile) as client:
            return await open_desk(profile, client, self._tuning).test_connection()

    async def close(self) -> None:
        """Close every client."""
        async with self._opening:
            for desk_id in list(self._opened):
                self._put_aside(desk_id)
            await self._close_aside(math.inf)

    def _put_aside(self, desk_id: str) -> None:
        opened = self._opened.pop(desk_id, None)
        if opened is not None:
            self._aside.append((time.monotonic() + IN_FLIGHT, opened.client))

    async def _close_aside(self, now: float) -> None:
        over = [client for until, client in self._aside if until <= now]
        self._aside = [(until, client) for until, client in self._aside if until > now]
        for client in over:
            await client.aclose()

    @asynccontextmanager
    async def _reading(self, desk_id: str) -> AsyncIterator[TicketReader]:
        yield _Reader(await self._connected(desk_id), self._database)


class _Reader:
    """Reads the ticket of a case: by what was kept when it was opened here, else by looking for it."""

    def __init__(self, opened: _Opened, database: Database) -> None:
        self._opened = opened
        self._database = database

    async def read(self, reference: str, *, since: datetime) -> TicketState | None:
        """See `ports.TicketReader`."""
        async with self._database.reading() as db:
            kept = (await ticket_store.referred(db, {reference})).get(reference)
        ref = ref_of(kept) if kept else None
        if kept is not None and ref is not None:
            check_place(self._opened.stored, kept)
        else:
            ref = await self._opened.desk.find_by_case(reference, since=since)
        if ref is None:
            return None
        said = await self._opened.desk.read_decision(ref)
        return TicketState(
            ref.number,
            said.reading,
            said.reason,
            said.actor,
            said.test,
            said.closed,
            said.at,
            said.moved_by,
            said.moved_at,
            said.ours,
        )


async def announce(unit: Unit) -> None:
    """Say of every desk what has changed since it was said last.

    Whoever changes a desk calls it afterwards. What another is changing at the same time is said by that one: it waits
    for this transaction, and looks again.
    """
    await told_store.lock(unit.db)
    changes = await told_store.untold(unit.db)
    await told_store.remember(unit.db, changes)
    unit.emit(*changes)


def _address(profile: DeskProfile) -> str:
    return _setting(profile.platform, profile.settings, "base_url")


def _setting(platform: str, settings: Mapping[str, str], name: str) -> str:
    defaults = {entry.name: entry.default for entry in PLATFORMS[platform].entries}
    return settings.get(name, "") or defaults.get(name, "")


def place_of(stored: Desk) -> str:
    """Return where the keys of a desk's tickets mean something, in words: its platform, site, table and workspace."""
    settings = msgspec.json.decode(stored.settings, type=dict[str, str])
    found = {name: _setting(stored.platform, settings, name) for name in ("base_url", "table", "workspace_id")}
    place = f"{stored.platform} at {found.pop('base_url').rstrip('/')}"
    return ", ".join([place, *(f"{name} {value}" for name, value in found.items() if value)])


def check_place(stored: Desk, ticket: Ticket) -> None:
    """Refuse to look a ticket up elsewhere than where it was opened.

    Raises:
        ElsewhereNow: its desk leads to another place now.
    """
    if ticket.place is not None and ticket.place != place_of(stored):
        raise ElsewhereNow(ticket.number or ticket.reference, stored.id, was=ticket.place, now=place_of(stored))


def ref_of(ticket: Ticket) -> TicketRef | None:
    """Return where a ticket is on its desk, or None before it is open."""
    return None if ticket.key is None else TicketRef(ticket.key, ticket.number or ticket.key, ticket.url or "")


def offers_downgrade(ticket: Ticket | None) -> bool:
    """Tell whether a ticket may be answered with a downgrade; what is not known here, the case itself judges."""
    return ticket is None or _offers_downgrade(msgspec.json.decode(ticket.values, type=dict[str, str]))


def _offers_downgrade(values: Mapping[str, str]) -> bool:
    return values.get(DOWNGRADE_TO) != ""


def rules_of(stored: Desk) -> DecisionRules:
    """Return how a desk's tickets read."""
    return msgspec.convert(msgspec.json.decode(stored.decisions), DecisionRules)


def draft(stored: Desk, ticket: Ticket) -> TicketDraft:
    """Return the ticket to be opened for a case, by the desk's templates; that of a task has a form of its own."""
    values = msgspec.json.decode(ticket.values, type=dict[str, str])
    return drafted(
        stored,
        values,
        reference=ticket.reference,
        kind=ticket.kind,
        opened_at=ticket.flagged_at,
        requester_email=ticket.requester_email,
        test=ticket.dry_run,
    )


def drafted(
    stored: Desk,
    values: Mapping[str, str],
    *,
    reference: str,
    kind: Kind,
    opened_at: datetime,
    requester_email: str | None = None,
    test: bool = False,
) -> TicketDraft:
    """Return a ticket with a desk's templates filled in.

    Raises:
        Invalid: a template is not one.
    """
    how = templates.answers(rules_of(stored), task=kind == "task", downgrade=_offers_downgrade(values))
    values = {**values, "answers": how}
    if kind == "task":
        title, description = templates.task(values)
    else:
        title = templates.title(stored.title, values)
        description = templates.description(stored.description, values)
    fields: Mapping[str, Json] = msgspec.json.decode(stored.fields)
    return TicketDraft(
        case_id=reference,
        title=title,
        description=description,
        opened_at=opened_at,
        requester_email=requester_email,
        fields={name: templates.field(value, values) for name, value in fields.items()},
        test=test,
    )


def check(stored: Desk, profile: DeskProfile) -> None:
    """Check a desk as it was entered, without calling anybody.

    Raises:
        Invalid: something does not fit; `field` names it.
    """
    validate(profile)
    templates.check("title", stored.title)
    templates.check("description", stored.description)
    fields = msgspec.json.decode(stored.fields)
    if not isinstance(fields, dict):
        raise Invalid("Enter fields as names and values.", field="fields")
    for name, value in fields.items():
        if isinstance(value, str) and value.strip():
            templates.check(f"fields.{name}", value)
