"""The audit trail as a file, a page of entries at a time: CSV for spreadsheets, JSON Lines for programs.

A line of JSON has everything that its hash covers, so that the chain can be verified without us.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Any, Final, Literal

import msgspec

from reclaim.common.db import Database
from reclaim.common.errors import Invalid
from reclaim.lifecycle import audit_store, store
from reclaim.lifecycle.store import Moment
from reclaim.web.spreadsheets import BYTE_ORDER_MARK, csv_line

Format = Literal["csv", "jsonl"]

MEDIA_TYPES: Final[dict[Format, str]] = {"csv": "text/csv; charset=utf-8", "jsonl": "application/jsonl"}

COLUMNS: Final = (
    "position", "hash", "previous", "at", "case", "version", "actor", "channel", "command", "accepted", "before",
    "after", "note", "evidence", "personal_digest",
)  # fmt: skip
PERSONAL_COLUMNS: Final = ("ip", "user_agent")

_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class Selection:
    """Which entries: from `since` on, before `until`, of one case. `personal` adds address and browser."""

    since: datetime | None = None
    until: datetime | None = None
    case_id: str | None = None
    personal: bool = False


def instant(text: str, field: str, *, whole_day: bool = False) -> datetime | None:
    """Read an ISO 8601 date or instant, in UTC unless it says otherwise; None for an empty text.

    A date alone is the start of its day or, with `whole_day`, that of the next: *until* a day includes it.

    Raises:
        Invalid: the text is neither.
    """
    if not text:
        return None
    try:
        if len(text) == len("2026-11-21"):
            day = datetime.combine(date.fromisoformat(text), time(), UTC)
            return day + timedelta(days=1) if whole_day else day
        read = datetime.fromisoformat(text)
        return read.replace(tzinfo=UTC) if read.tzinfo is None else read.astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise Invalid(f"{text!r} is no date: write 2026-11-21 or 2026-11-21T14:30:00Z.", field=field) from error


async def lines(database: Database, form: Format, selection: Selection) -> AsyncIterator[str]:
    """Yield the text of an export, some lines at a time, of the entries that there are when it begins."""
    async with database.reading() as db:
        up_to, _head = await store.audit_head(db)
    columns = (*COLUMNS, *(PERSONAL_COLUMNS if selection.personal else ()))
    if form == "csv":
        yield BYTE_ORDER_MARK + csv_line(columns)
    async for page in audit_store.moments(
        database, up_to=up_to, since=selection.since, until=selection.until, case_id=selection.case_id
    ):
        rows = (_row(moment, personal=selection.personal) for moment in page)
        if form == "csv":
            yield "".join(csv_line([row[name] for name in columns]) for row in rows)
        else:
            yield "".join(f"{_encode(row).decode()}\n" for row in rows)


def _row(moment: Moment, *, personal: bool) -> dict[str, Any]:
    link, entry = moment.link, moment.link.entry
    row = {
        "position": link.position,
        "hash": link.hash,
        "previous": link.previous,
        "at": entry.at,
        "case": entry.case_id,
        "version": entry.version,
        "actor": entry.actor,
        "channel": entry.channel,
        "command": entry.command,
        "accepted": entry.accepted,
        "before": entry.before,
        "after": entry.after,
        "note": entry.note,
        "evidence": entry.evidence,
        "personal_digest": entry.personal,
    }
    return {**row, "ip": moment.ip, "user_agent": moment.user_agent} if personal else row
