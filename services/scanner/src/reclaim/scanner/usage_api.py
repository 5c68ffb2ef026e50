"""Usage over HTTP: feeds send records and say which periods are complete; people see how fresh each source is."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Annotated

from fastapi import Depends, Query
from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field
from pydantic_core import PydanticCustomError

from reclaim.common.errors import Invalid
from reclaim.common.routing import Router
from reclaim.scanner import import_store, retiring, usage_store
from reclaim.scanner.ports import Deps
from reclaim.scanner.usage import LATE, MOST_LATE, MOST_SILENCE, SILENCE, Channel, Report, UsageRecord, Window
from reclaim.web.auth import require
from reclaim.web.operators import Operator

MOST_RECORDS = 5_000


def _printable(text: str) -> str:
    if not text.isprintable():
        raise PydanticCustomError("unprintable", "must have printable characters only")
    return text


Text = Annotated[str, AfterValidator(_printable)]
"""As in files that are imported: PostgreSQL refuses a NUL, and names that differ by what nobody sees do not match."""


class _In(BaseModel):
    model_config = ConfigDict(extra="forbid")


class RecordIn(_In):
    user: Text = Field(description="The holder's id or e-mail address", max_length=320)
    product: Text = Field(max_length=200)
    period_start: AwareDatetime
    period_end: AwareDatetime
    channel: Channel = "ui"
    device: Text = Field("", max_length=200)
    seconds: int | None = Field(None, ge=0, le=10**9, description="Left out by a source that does not measure time")
    runs: int = Field(0, ge=0, le=10**9)
    last_used_at: AwareDatetime | None = None
    process: Text = Field("", max_length=255, description="File name of the program; empty where none is named")
    version: Text = Field("", max_length=100, description="Of the product; records of two versions are added up")
    session: bool = Field(False, description="One use from start to end; sessions that overlap are merged")


class ReportIn(_In):
    product: Text = Field("", max_length=200, description="Empty: every product that the source knows")
    period_start: AwareDatetime
    period_end: AwareDatetime
    complete: bool = True
    channels: list[Channel] = ["ui"]
    timed: bool = True
    anonymised: bool = False
    late_hours: int = Field(int(LATE.total_seconds()) // 3600, ge=0, le=MOST_LATE.days * 24)
    silence_hours: int = Field(int(SILENCE.total_seconds()) // 3600, ge=1, le=MOST_SILENCE.days * 24)


class UsageIn(_In):
    """Records of one source, and what it has now reported completely: send reports with the last batch of a period."""

    source: Text = Field(min_length=1, max_length=100)
    records: list[RecordIn] = Field([], max_length=MOST_RECORDS)
    reports: list[ReportIn] = Field([], max_length=100)


class RefusedOut(BaseModel):
    record: int = Field(description="Its place in the batch, from 0")
    reason: str


class TakenOut(BaseModel):
    kept: int
    refused: list[RefusedOut]


class SourceOut(BaseModel):
    source: str
    tells: str = Field(default="usage", description="usage, or installations, which it listed as of `complete_until`")
    product: str
    complete_until: datetime | None
    heard_at: datetime
    stale: bool
    text: str | None = Field(description="What to do about a stale source")


class RetireIn(_In):
    source: Text = Field(min_length=1, max_length=100)
    reason: Text = Field(description="Why it is no more, in 3 to 300 characters", max_length=300)


class RetiredOut(BaseModel):
    source: str
    retired_at: datetime
    retired_by: str
    reason: str


class UnmatchedOut(BaseModel):
    source: str
    user: str
    records: int
    last_used_at: datetime | None


def routes(deps: Deps) -> Router:
    """Return the routes of usage, for the scanner's API."""
    router = Router(prefix="/api/usage", tags=["scanner"])

    @router.post("", dependencies=[Depends(require("operator"))])
    async def add_usage(body: UsageIn) -> TakenOut:
        """Keep records. Sent again they change nothing; good ones are kept, the others are listed with the reason."""
        records = [UsageRecord(**record.model_dump()) for record in body.records]
        async with deps.database.unit() as unit:
            taken = await usage_store.add_records(unit.db, body.source, records, heard_at=unit.now)
            if taken.refused and body.reports:
                raise Invalid(
                    f"Record {min(taken.refused)}: {next(iter(taken.refused.values()))} Nothing was kept, because a "
                    "report says that the records are complete. Mend them, or send them without a report.",
                    field="records",
                )
            for report in body.reports:
                await usage_store.add_report(unit.db, _report(body.source, report, unit.now))
        return TakenOut(
            kept=taken.kept,
            refused=[RefusedOut(record=place, reason=reason) for place, reason in sorted(taken.refused.items())],
        )

    @router.get("/sources", dependencies=[Depends(require("viewer"))])
    async def list_sources() -> list[SourceOut]:
        """List how far each source can be relied on; by a stale one nobody is flagged."""
        async with deps.database.reading() as db:
            found = await usage_store.sources(db, deps.clock.now())
            listed = await import_store.inventories(db, deps.clock.now())
        installed = [
            SourceOut(
                source=each.source,
                tells="installations",
                product="",
                complete_until=each.heard_at,
                heard_at=each.heard_at,
                stale=each.stale,
                text=f"{each.source} has listed nothing since {each.heard_at:%Y-%m-%d}: send its next list."
                if each.stale
                else None,
            )
            for each in listed
        ]
        return installed + [
            SourceOut(
                source=each.source,
                product=each.product,
                complete_until=each.complete_until,
                heard_at=each.heard_at,
                stale=each.stale,
                text=each.text if each.stale else None,
            )
            for each in found
        ]

    @router.post("/sources/retire")
    async def retire_source(body: RetireIn, operator: Annotated[Operator, Depends(require("operator"))]) -> RetiredOut:
        """Retire a source that is no more: it vouches for nothing, and is stale no longer. Its records of use stay."""
        done = await retiring.retire(deps, body.source, body.reason, by=operator.name)
        return RetiredOut.model_validate(done, from_attributes=True)

    @router.get("/sources/retired", dependencies=[Depends(require("viewer"))])
    async def list_retired() -> list[RetiredOut]:
        """List the sources that were retired and have said nothing since."""
        async with deps.database.reading() as db:
            found = await retiring.retired(db)
        return [RetiredOut.model_validate(one, from_attributes=True) for one in found]

    @router.get("/unmatched", dependencies=[Depends(require("viewer"))])
    async def list_unmatched(
        source: str | None = None, limit: Annotated[int, Query(ge=1, le=1000)] = 100
    ) -> list[UnmatchedOut]:
        """List users that sources name and whom no known seat belongs to."""
        async with deps.database.reading() as db:
            found = await usage_store.unmatched(db, source, limit=limit)
        return [
            UnmatchedOut(source=each.source, user=each.user, records=each.records, last_used_at=each.last_used_at)
            for each in found
        ]

    return router


def _report(source: str, sent: ReportIn, now: datetime) -> Report:
    return Report(
        source=source,
        product=sent.product,
        period=Window(sent.period_start, sent.period_end),
        heard_at=now,
        complete=sent.complete,
        channels=frozenset(sent.channels),
        timed=sent.timed,
        anonymised=sent.anonymised,
        late=timedelta(hours=sent.late_hours),
        silence=timedelta(hours=sent.silence_hours),
    )
