"""Reads an export row by row: good rows become records, bad ones are listed with their line and the reason.

A name that a spreadsheet would run as a formula is refused: nobody is called so, and nothing of the kind is kept to be
written out again.
"""

from __future__ import annotations

import csv
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from typing import BinaryIO, Final, Generic, TypeVar
from zoneinfo import ZoneInfo

from reclaim.common.errors import Invalid
from reclaim.connectors.errors import NotOffered
from reclaim.connectors.feeds import values
from reclaim.connectors.feeds.columns import FEEDS, Feed, folded, match
from reclaim.connectors.feeds.lines import Lines
from reclaim.connectors.feeds.values import DateOrder, Unreadable
from reclaim.connectors.identities import is_anonymous
from reclaim.connectors.ports import Installation, UsageRecord

PAGE: Final = 1_000
"""Records that are given at once."""

MOST_PROBLEMS: Final = 1_000
MOST_NAMES: Final = 1_000
MOST_REASONS: Final = 100
MOST_ROW: Final = 1_000
"""Characters of a bad row that are kept."""

MOST_LINES_OF_A_ROW: Final = 50
"""A row that goes over more lines has a quotation mark that is never closed."""

_HEADER_WITHIN: Final = 30
"""Lines that may stand above the heading: a report's title, its date, empty lines."""

_MOST_TEXT: Final = 300
_SEPARATORS: Final = (",", ";", "\t")
_FORMULA: Final = (
    "=+-@\N{FULLWIDTH EQUALS SIGN}\N{FULLWIDTH PLUS SIGN}\N{FULLWIDTH HYPHEN-MINUS}\N{FULLWIDTH COMMERCIAL AT}"
)
"""How a cell begins that a spreadsheet would run. Such a sign alone is a mark for nothing, as some exports write it."""

Record = TypeVar("Record", UsageRecord, Installation)


@dataclass(frozen=True, slots=True)
class Options:
    """What a file does not tell by itself.

    `source` names the feed in each record. Times without a zone are in `time_zone`. `date_order` says how 03/04/2026
    is meant; without it such a day is refused. `period` is what rows are about that name no month and no day.
    `knows` tells whether a user name is known here: rows with others are kept, and their names listed.
    """

    source: str
    now: datetime
    time_zone: str = "UTC"
    date_order: DateOrder | None = None
    period: tuple[datetime, datetime] | None = None
    knows: Callable[[str], bool] | None = None


@dataclass(frozen=True, slots=True)
class Problem:
    """A row that was left out: the line it begins in, counted from 1, why, and the row as it stands in the file."""

    line: int
    reason: str
    row: str = field(default="", compare=False)


@dataclass(slots=True)
class FeedReport:
    """What became of a file; complete when its last record was taken.

    `problems` and `unmatched` list the first of them; `bad` and `unmatched_rows` count all. `anonymous` are rows whose
    user the source hides: kept, and nobody's absence is proven by a file that has any.
    """

    header_line: int = 0
    separator: str = ","
    encoding: str = "ASCII"
    ignored_columns: tuple[str, ...] = ()
    rows: int = 0
    good: int = 0
    bad: int = 0
    problems: list[Problem] = field(default_factory=list)
    reasons: Counter[str] = field(default_factory=Counter)
    anonymous: int = 0
    without_user: int = 0
    unmatched_rows: int = 0
    unmatched: dict[str, None] = field(default_factory=dict)

    def refuse(self, line: int, reason: str, row: str = "") -> None:
        """Count a bad row, and list it while there is room."""
        self.bad += 1
        if reason in self.reasons or len(self.reasons) < MOST_REASONS:
            self.reasons[reason] += 1
        if len(self.problems) < MOST_PROBLEMS:
            self.problems.append(Problem(line, reason, row.strip("\r\n")[:MOST_ROW]))


@dataclass(slots=True)
class Reading(Generic[Record]):
    """A file that is being read: `pages` gives its records, `report` tells how it went so far."""

    report: FeedReport
    pages: Iterator[Sequence[Record]]


def read_usage(stream: BinaryIO, feed: str, options: Options) -> Reading[UsageRecord]:
    """Begin to read an export of usage.

    Raises:
        NotOffered: this kind of export tells of no usage.
        Invalid: the kind is unknown, or the heading is not that of such an export; `field` is `feed` or `file`.
    """
    known = _feed(feed)
    if not known.usage:
        raise NotOffered(f"{known.label} exports what is installed, and nobody's use: read it as installations.")
    heading = _heading(stream, known, known.usage, _lacks_usage(options))
    return _reading(heading, options, lambda row: _usage(row, known, options))


def read_installations(stream: BinaryIO, feed: str, options: Options) -> Reading[Installation]:
    """Begin to read an export of installed software.

    Raises:
        Invalid: the kind is unknown, or the heading is not that of such an export; `field` is `feed` or `file`.
    """
    known = _feed(feed)
    heading = _heading(stream, known, known.installations, _lacks_installations)
    return _reading(heading, options, lambda row: _installation(row, known, options))


def _feed(name: str) -> Feed:
    if name not in FEEDS:
        raise Invalid(f"There is no kind of export called {name!r}: use {', '.join(FEEDS)}.", field="feed")
    return FEEDS[name]


# ------------------------------------------------------------------------------------------------ the heading


@dataclass(slots=True)
class _Heading:
    """Where the columns stand, and the lines after the heading."""

    lines: Lines
    rest: Iterator[str]
    columns: Mapping[str, int]
    width: int
    report: FeedReport


def _heading(
    stream: BinaryIO,
    feed: Feed,
    names: Mapping[str, Sequence[str]],
    lacks: Callable[[Mapping[str, int]], list[str]],
) -> _Heading:
    lines = Lines(stream)
    rest = iter(lines)
    best: tuple[int, int, list[str], list[str]] | None = None
    for line in rest:
        for separator in _SEPARATORS:
            headings = _cells(line, separator)
            columns = match(headings, names)
            missing = lacks(columns)
            if columns and not missing:
                known = set(columns.values())
                ignored = tuple(cell[:60] for at, cell in enumerate(headings) if at not in known and cell)
                report = FeedReport(lines.number, separator, lines.encoding, ignored)
                return _Heading(lines, rest, columns, len(headings), report)
            if best is None or len(columns) > best[0]:
                best = (len(columns), lines.number, headings, missing)
        if lines.number >= _HEADER_WITHIN:
            break
    if best is None:
        raise Invalid("The file is empty.", field="file")
    _found, number, headings, missing = best
    raise Invalid(
        f"Line {number}: this is not the heading of such an export of {feed.label}: it lacks {'; '.join(missing)}. It "
        f"has: {', '.join(repr(cell[:40]) for cell in headings[:20] if cell) or 'nothing'}. Nothing was read.",
        field="file",
    )


def _cells(line: str, separator: str) -> list[str]:
    """Return one line's cells; what is no CSV has none."""
    try:
        return [cell.strip() for cell in next(csv.reader([line], delimiter=separator), [])]
    except csv.Error:
        return []


def _lacks_usage(options: Options) -> Callable[[Mapping[str, int]], list[str]]:
    def lacks(columns: Mapping[str, int]) -> list[str]:
        missing = []
        if not columns.keys() & {"user", "device"}:
            missing.append("a user or a device")
        if not columns.keys() & {"product", "process"}:
            missing.append("a product or a file name")
        if not columns.keys() & {"seconds", "minutes", "hours", "runs", "last_used"}:
            missing.append("a time used (in seconds, minutes or hours), a count of runs, or a last use")
        if not columns.keys() & {"month", "day"} and options.period is None:
            missing.append("a month or a day, or else the period that was asked for with the file")
        return missing

    return lacks


def _lacks_installations(columns: Mapping[str, int]) -> list[str]:
    needed = (("device", "a device"), ("product", "a product"))
    return [what for column, what in needed if column not in columns]


# ------------------------------------------------------------------------------------------------ the rows


class _Row:
    """One row's cells by column; what is not there is empty."""

    def __init__(self, cells: Sequence[str], columns: Mapping[str, int]) -> None:
        self._cells = cells
        self._columns = columns

    def text(self, column: str) -> str:
        """Return a cell as one line of text.

        Raises:
            Unreadable: it is too long, has characters that are no text, or is what a spreadsheet would run.
        """
        text = self._cell(column)
        if len(text) > 1 and text[0] in _FORMULA:
            raise Unreadable(f"{_name(column)} begins like a formula: {text[:20]!r}")
        return text

    def _cell(self, column: str) -> str:
        at = self._columns.get(column)
        if at is None or not self._cells[at]:
            return ""
        text = " ".join(self._cells[at].split())
        if len(text) > _MOST_TEXT or not text.isprintable():
            raise Unreadable(f"{_name(column)} is longer than {_MOST_TEXT} characters, or is no text")
        return text

    def read(self, column: str, convert: Callable[[str], _Value]) -> _Value | None:
        """Return a cell's value, or None where it is empty.

        Raises:
            Unreadable: it holds something else; the message names the column and the value.
        """
        text = self._cell(column)
        if not text:
            return None
        try:
            return convert(text)
        except Unreadable as error:
            raise Unreadable(f"{_name(column)} {error}") from None


_Value = TypeVar("_Value")


def _reading(heading: _Heading, options: Options, convert: Callable[[_Row], Record]) -> Reading[Record]:
    return Reading(heading.report, _pages(heading, options, convert))


def _pages(heading: _Heading, options: Options, convert: Callable[[_Row], Record]) -> Iterator[list[Record]]:
    page: list[Record] = []
    report = heading.report
    for line, text, cells, trouble in _rows(heading):
        report.rows += 1
        if trouble is not None:
            report.refuse(line, trouble, text)
            continue
        try:
            record = convert(_Row(cells, heading.columns))
        except Unreadable as error:
            report.refuse(line, str(error), text)
            continue
        report.good += 1
        _note_user(report, cells, heading.columns, options)
        page.append(record)
        if len(page) == PAGE:
            yield page
            page = []
    report.encoding = heading.lines.encoding
    if page:
        yield page


def _rows(heading: _Heading) -> Iterator[tuple[int, str, list[str], str | None]]:
    """Yield each row that is not empty: the line it begins in, its text, its cells, and what is wrong with the whole.

    A row goes on in the next line while a quotation mark is open. One that is never closed costs its own line only:
    those after it are read again as rows of their own.
    """
    lines = heading.lines
    again: deque[tuple[int, str]] = deque()

    def taken() -> tuple[int, str] | None:
        if again:
            return again.popleft()
        text = next(heading.rest, None)
        return None if text is None else (lines.number, text)

    while (begun := taken()) is not None:
        span = [begun]
        first, text = begun
        open_ = text.count('"') % 2
        while open_ and len(span) < MOST_LINES_OF_A_ROW and (more := taken()) is not None:
            span.append(more)
            text += more[1]
            open_ = (open_ + more[1].count('"')) % 2
        if open_:
            again.extendleft(reversed(span[1:]))
            span = span[:1]
            text = span[0][1]
        marks = [lines.marked.pop(number) for number, _ in span if number in lines.marked]
        if open_:
            yield first, text, [], "a quotation mark is not closed"
            continue
        try:
            cells = next(csv.reader([text], delimiter=heading.report.separator, strict=True), [])
        except csv.Error as error:
            yield first, text, [], f"is no CSV: {error}"
            continue
        if marks:
            yield first, text, cells, marks[0]
        elif any(cell.strip() for cell in cells):
            wrong = len(cells) != heading.width
            what = f"has {len(cells)} cells, and the heading has {heading.width}" if wrong else None
            yield first, text, cells, what


def _note_user(report: FeedReport, cells: Sequence[str], columns: Mapping[str, int], options: Options) -> None:
    at = columns.get("user")
    user = "" if at is None else " ".join(cells[at].split())
    if not user:
        report.without_user += 1
    elif is_anonymous(user):
        report.anonymous += 1
    elif options.knows is not None and not options.knows(user):
        report.unmatched_rows += 1
        if len(report.unmatched) < MOST_NAMES:
            report.unmatched[user] = None


def _usage(row: _Row, feed: Feed, options: Options) -> UsageRecord:
    zone = ZoneInfo(options.time_zone)
    start, end = _period(row, options, zone)
    used = [
        value
        for column, unit in (("seconds", 1), ("minutes", 60), ("hours", 3600))
        if (value := row.read(column, partial(values.seconds, unit=unit))) is not None
    ]
    runs = [value for column in ("runs", "more_runs") if (value := row.read(column, values.count)) is not None]
    last = row.read("last_used", lambda text: values.instant(text, zone, options.date_order))
    if not used and not runs and last is None:
        raise Unreadable("tells neither a time used, nor a count of runs, nor a last use")
    if last is not None and last > options.now + timedelta(days=1):
        raise Unreadable("last used lies in the future")
    if last is not None and not start <= last <= end:
        raise Unreadable("last used lies outside the month, day or period that the row is about")
    user, device = _user(row), row.text("device") or None
    if row.text("user") == "" and device is None:
        raise Unreadable("names neither a user nor a device")
    process = row.text("process").replace("/", "\\").rsplit("\\", 1)[-1] or None
    product = row.text("product")
    if not product and process is None:
        raise Unreadable("names neither a product nor a file")
    return UsageRecord(
        source=options.source,
        user=user,
        product=product,
        product_name=product or process or "",
        channel="ui",
        period_start=start,
        period_end=end,
        last_used_at=last,
        runs=sum(runs) if runs else None,
        # Two columns tell the same time in two units: the finer one is the first.
        seconds=used[0] if used else None,
        process=process,
        version=row.text("version") or None,
        platform=_platform(row, feed),
        device=device,
    )


def _period(row: _Row, options: Options, zone: ZoneInfo) -> tuple[datetime, datetime]:
    """Return what a row is about: its month, its day, or the period that was given for the whole file."""
    first = row.read("month", values.month)
    if first is not None:
        return values.start_of(first, zone), values.start_of(values.next_month(first), zone)
    day = row.read("day", lambda text: values.day(text, zone, options.date_order))
    if day is not None:
        return values.start_of(day, zone), values.start_of(day + timedelta(days=1), zone)
    if options.period is None:
        raise Unreadable("names neither a month nor a day")
    return options.period


def _installation(row: _Row, feed: Feed, options: Options) -> Installation:
    zone = ZoneInfo(options.time_zone)
    device, product = row.text("device"), row.text("product")
    if not device or not product:
        raise Unreadable("names no device" if not device else "names no product")
    installed = row.read("installed", lambda text: values.instant(text, zone, options.date_order))
    if installed is not None and installed > options.now + timedelta(days=1):
        raise Unreadable("installed lies in the future")
    return Installation(
        source=options.source,
        device=device,
        product=product,
        version=row.text("version") or None,
        publisher=row.text("publisher") or None,
        platform=_platform(row, feed),
        installed_at=installed,
        user=_user(row),
    )


def _user(row: _Row) -> str | None:
    user = row.text("user")
    return None if is_anonymous(user) else user


_PLATFORMS: Final = (("windows", "windows"), ("mac", "macos"), ("ios", "ios"), ("ipad", "ios"), ("android", "android"))


def _platform(row: _Row, feed: Feed) -> str | None:
    text = folded(row.text("platform"))
    return next((name for word, name in _PLATFORMS if word in text), text or None) or feed.platform


def _name(column: str) -> str:
    return column.replace("_", " ")
