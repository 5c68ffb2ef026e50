"""Reads the files that people send: rows into records, what is refused onto a list, and a word on whether it was all.

The reading runs in a thread and asks for one part of the file at a time. Rows are staged in the database and summed
there, so that memory holds a page of them. Whoever takes over a file whose process died reads it again from its
beginning: what was kept by then is replaced by the same.
"""

from __future__ import annotations

import asyncio
import io
import logging
from collections.abc import Iterator, Sequence
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Final, TypeVar

import msgspec
from sqlalchemy.exc import SQLAlchemyError

from reclaim.common.db import Unit, is_outage
from reclaim.common.errors import Permanent, Transient
from reclaim.common.service import Job
from reclaim.common.timing import backoff
from reclaim.connectors.feeds import FeedReport, Reading, read_installations, read_usage
from reclaim.connectors.ports import Installation as InstalledRow
from reclaim.connectors.ports import UsageRecord as UsageRow
from reclaim.scanner import catalog_store, import_store, leases, usage_store
from reclaim.scanner.import_store import IMPORT, Claimed, Findings, SumKey
from reclaim.scanner.imports import Matcher, Summing, covered, installed, options_of, why_not_complete
from reclaim.scanner.ports import Deps
from reclaim.scanner.store import LeaseLost
from reclaim.scanner.usage import InstallationRecord, Report, Window
from reclaim.scanner.usage_store import COUNT_UNMATCHED

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

log = logging.getLogger(__name__)

Record = TypeVar("Record")

TOGETHER: Final = 4
"""Pages of a thousand rows that are kept in one transaction."""

SUMS: Final = 4_000
"""Sums that are kept in one transaction."""

READ_AHEAD: Final = 1 << 16

FETCHED_WITHIN: Final = 120.0
"""Seconds that the reading thread waits for a part of the file before it takes the database for gone."""


def jobs(deps: Deps) -> tuple[Job, ...]:
    """Return the jobs of imports."""
    return (Job(IMPORT, partial(read_file, deps), every=5.0),)


async def read_file(deps: Deps) -> bool:
    """Read one file that waits, or whose process died; return whether there was one."""
    async with deps.database.reading() as db:
        if not await import_store.anything_to_claim(db):
            return False
    async with deps.database.unit() as unit:
        claimed = await import_store.claim(unit.db, lease_seconds=deps.settings.lease_seconds)
    if claimed is None:
        return False

    async def prolong() -> None:
        async with deps.database.unit() as unit:
            await import_store.update(unit.db, claimed, import_store.lease_until(deps.settings.lease_seconds))

    try:
        async with leases.kept(prolong, seconds=deps.settings.lease_seconds, what=f"import {claimed.file.id}"):
            await _read(deps, claimed)
    except LeaseLost:
        log.warning("import %s was taken over by another process", claimed.file.id)
    except asyncio.CancelledError:
        await _hand_back(deps, claimed)
        raise
    except Exception as error:
        if is_outage(error):
            raise
        await _give_up(deps, claimed, error)
    return True


async def _read(deps: Deps, claimed: Claimed) -> None:
    file = claimed.file
    if file.status == "receiving":
        raise Permanent("The file did not arrive whole.")
    async with deps.database.reading() as db:
        matcher = Matcher(await catalog_store.catalog(db))
    parts = _Parts(deps, file.id)
    stream = io.BufferedReader(parts, READ_AHEAD)
    options = options_of(file.terms, file.source, file.requested_at)
    if file.what == "usage":
        used = await asyncio.to_thread(read_usage, stream, file.shape, options)
        await _read_usage(deps, claimed, parts, used, matcher)
    else:
        there = await asyncio.to_thread(read_installations, stream, file.shape, options)
        await _read_installations(deps, claimed, parts, there, matcher)


# ------------------------------------------------------------------------------------------------ use


async def _read_usage(
    deps: Deps, claimed: Claimed, stream: _Parts, reading: Reading[UsageRow], matcher: Matcher
) -> None:
    file, summing = claimed.file, Summing(matcher)
    while rows := await asyncio.to_thread(_some, reading.pages):
        async with deps.database.unit() as unit:
            await _note(deps, unit, claimed, stream, reading.report)
            await import_store.stage(unit.db, file.id, summing.staged(rows))
    kept = 0
    after: SumKey | None = None
    while True:
        async with deps.database.unit() as unit:
            records, after = await import_store.take_sums(unit.db, file.id, after, SUMS)
            if not records:
                break
            taken = await usage_store.add_records(unit.db, file.source, records, heard_at=file.requested_at)
            kept += taken.kept
            summing.left_out += len(taken.refused)
            lease = import_store.lease_until(deps.settings.lease_seconds)
            await import_store.update(unit.db, claimed, {"kept": kept, **lease})
    findings = _findings(reading.report, matcher)
    findings.untimed, findings.left_out = summing.untimed, summing.left_out
    windows = covered(file.terms, summing.periods)
    findings.periods = tuple((window.start, window.end) for window in windows)
    async with deps.database.unit() as unit:
        vouched = why_not_complete(file.terms, bad=reading.report.bad, windows=windows, now=file.requested_at)
        if vouched is None:
            hidden = findings.anonymous + findings.without_user > 0
            vouched = await _vouch(unit, claimed, windows, timed=summing.untimed == 0, anonymised=hidden)
        await _finish(unit, claimed, reading.report, findings, kept=kept, vouched=vouched)


async def _vouch(unit: Unit, claimed: Claimed, windows: Sequence[Window], *, timed: bool, anonymised: bool) -> str:
    """Report that a source has told everybody's use in some periods; return that in words."""
    file = claimed.file
    for window in windows:
        report = Report(
            source=file.source,
            product="",
            period=window,
            heard_at=file.requested_at,
            timed=timed,
            anonymised=anonymised,
            silence=timedelta(days=file.terms.silence_days),
        )
        await usage_store.add_report(unit.db, report)
    if not windows:
        return "Not marked complete: the file has no row, and no period was given with it."
    said = f"Marked complete from {windows[0].start:%Y-%m-%d} to {windows[-1].end:%Y-%m-%d}"
    if anonymised:
        return f"{said}; but rows without a user prove nobody's absence."
    return f"{said}."


# ------------------------------------------------------------------------------------------------ installations


async def _read_installations(
    deps: Deps, claimed: Claimed, stream: _Parts, reading: Reading[InstalledRow], matcher: Matcher
) -> None:
    file, kept, left_out, outdated = claimed.file, 0, 0, False
    while rows := await asyncio.to_thread(_some, reading.pages):
        records = [
            InstallationRecord(
                user=row.user or "",
                product=product,
                device=row.device,
                version=row.version,
                installed_at=row.installed_at,
                platform=row.platform,
            )
            for product, row in installed(rows, matcher)
        ]
        async with deps.database.unit() as unit:
            await _note(deps, unit, claimed, stream, reading.report)
            taken = await usage_store.add_installations(unit.db, file.source, records, heard_at=file.requested_at)
            kept += taken.kept
            left_out += len(taken.refused)
            outdated = outdated or taken.outdated
            await import_store.update(unit.db, claimed, {"kept": kept})
    findings = _findings(reading.report, matcher)
    findings.left_out = left_out
    async with deps.database.unit() as unit:
        vouched = why_not_complete(file.terms, bad=reading.report.bad, windows=(), now=file.requested_at)
        if outdated:
            vouched = f"Not kept: a newer whole list of {file.source} was read already."
        if vouched is None and not kept:
            # An empty target set is no list of everything: it would take every installation for gone.
            vouched = "Not marked complete: the file lists no installation."
        if vouched is None:
            silence = timedelta(days=file.terms.silence_days)
            gone = await usage_store.end_inventory(unit.db, file.source, heard_at=file.requested_at, silence=silence)
            vouched = f"Marked complete: {gone:,} installations that were listed before are not any more."
        await _finish(unit, claimed, reading.report, findings, kept=kept, vouched=vouched)


# ------------------------------------------------------------------------------------------------ both


def _some(pages: Iterator[Sequence[Record]]) -> list[Record]:
    """Return the next rows of a file, a few pages of them; none at its end. Runs in a thread."""
    found: list[Record] = []
    for _ in range(TOGETHER):
        page = next(pages, None)
        if page is None:
            break
        found += page
    return found


async def _note(deps: Deps, unit: Unit, claimed: Claimed, stream: _Parts, report: FeedReport) -> None:
    """Write the progress down, and prove in the same transaction that the file is still ours."""
    progress = {"bytes_read": stream.given, "rows": report.rows, "bad": report.bad}
    await import_store.update(unit.db, claimed, {**progress, **import_store.lease_until(deps.settings.lease_seconds)})


def _findings(report: FeedReport, matcher: Matcher) -> Findings:
    return Findings(
        header_line=report.header_line,
        separator=report.separator,
        encoding=report.encoding,
        ignored_columns=report.ignored_columns,
        anonymous=report.anonymous,
        without_user=report.without_user,
        unknown=dict(matcher.unknown.most_common()),
        reasons=dict(report.reasons.most_common()),
    )


async def _finish(
    unit: Unit, claimed: Claimed, report: FeedReport, findings: Findings, *, kept: int, vouched: str
) -> None:
    await import_store.refuse(unit.db, claimed.file.id, report.problems)
    await import_store.end(
        unit.db,
        claimed,
        "finished",
        unit.now,
        bytes_read=claimed.file.bytes,
        rows=report.rows,
        bad=report.bad,
        kept=kept,
        findings=msgspec.to_builtins(findings),
        vouched=vouched,
    )
    unit.wake(COUNT_UNMATCHED)
    log.info("import %s: %d rows, %d refused, %d kept", claimed.file.id, report.rows, report.bad, kept)


async def _give_up(deps: Deps, claimed: Claimed, error: Exception) -> None:
    """Write down why a file was not read: again after a while if that can help, else a person is told."""
    file, settings = claimed.file, deps.settings
    async with deps.database.unit() as unit:
        try:
            match error:
                case Transient() if claimed.attempt < settings.most_attempts:
                    wait = backoff(
                        claimed.attempt, first=settings.first_wait_seconds, most=settings.longest_wait_seconds
                    )
                    rest = import_store.waiting(wait, str(error), "Nothing is lost: it is read again by itself.")
                    await import_store.update(unit.db, claimed, rest)
                    return
                case Permanent():
                    problem, remedy = str(error), "Mend that, and send the file again."
                case _:
                    log.error("import %s failed", file.id, exc_info=error)
                    problem = f"An error on our side: {type(error).__name__}."
                    remedy = "Send it again; if it fails again, give the log of this moment to whoever runs Reclaim."
            await import_store.end(unit.db, claimed, "failed", unit.now, problem=problem, remedy=remedy)
        except LeaseLost:
            log.warning("import %s was taken over by another process", file.id)


async def _hand_back(deps: Deps, claimed: Claimed) -> None:
    """Let another process go on at once, instead of when the lease ends."""
    if claimed.file.status == "receiving":
        return
    try:
        async with deps.database.unit() as unit:
            await import_store.update(unit.db, claimed, import_store.handed_back())
    except (LeaseLost, SQLAlchemyError, OSError) as error:
        log.warning("import %s was not handed back and waits for its lease: %s", claimed.file.id, error)


class _Parts(io.RawIOBase):
    """A file in the database as a thread reads it: one part at a time, fetched by the loop that the job runs on."""

    def __init__(self, deps: Deps, import_id: str) -> None:
        self.given = 0
        self._deps = deps
        self._import_id = import_id
        self._loop = asyncio.get_running_loop()
        self._number = 0
        self._left = memoryview(b"")

    def readable(self) -> bool:
        """Tell that it can be read."""
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        """Fill a buffer from the part at hand, or from the next one; 0 behind the last."""
        if not self._left:
            fetched = asyncio.run_coroutine_threadsafe(self._fetch(), self._loop)
            self._left = memoryview(fetched.result(timeout=FETCHED_WITHIN))
        with memoryview(buffer).cast("B") as into:
            taken = min(len(into), len(self._left))
            into[:taken] = self._left[:taken]
        self._left = self._left[taken:]
        self.given += taken
        return taken

    async def _fetch(self) -> bytes:
        async with self._deps.database.reading() as db:
            body = await import_store.part(db, self._import_id, self._number)
        self._number += 1
        return body
