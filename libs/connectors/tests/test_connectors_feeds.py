"""Exports of endpoint managers, as they really come: many headings, four encodings, and rows that cannot be right."""

from __future__ import annotations

import codecs
import io
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, BinaryIO

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reclaim.common.errors import Invalid
from reclaim.connectors.errors import NotOffered
from reclaim.connectors.feeds import FEEDS, FeedReport, Options, read_installations, read_usage
from reclaim.connectors.feeds.reading import MOST_LINES_OF_A_ROW, MOST_NAMES, MOST_PROBLEMS, MOST_REASONS
from reclaim.connectors.ports import Installation, UsageRecord
from reclaim.web.spreadsheets import cell

NOW = datetime(2026, 11, 21, 9, 0, tzinfo=UTC)
OPTIONS = Options(source="Acme SCCM", now=NOW)
PLAIN = "User,Device,Product,Month,Seconds\n"


def usage(text: str | bytes, feed: str = "csv", options: Options = OPTIONS) -> tuple[list[UsageRecord], FeedReport]:
    data = text.encode() if isinstance(text, str) else text
    reading = read_usage(io.BytesIO(data), feed, options)
    return [record for page in reading.pages for record in page], reading.report


def installed(text: str, feed: str = "csv", options: Options = OPTIONS) -> tuple[list[Installation], FeedReport]:
    reading = read_installations(io.BytesIO(text.encode()), feed, options)
    return [record for page in reading.pages for record in page], reading.report


def test_sccm_as_its_views_name_things() -> None:
    (record,), report = usage(
        "Netbios_Name0,FullName,ProductName0,FileName0,FileVersion0,TimeKey,UsageCount,TSUsageCount,UsageTime,LastUsage\n"
        'PC-17,ACME\\ada,Visio,VISIO.EXE,16.0.1,202610,12,3,"72,000",2026-10-30 16:45:00.000\n',
        "sccm",
    )
    assert record == UsageRecord(
        source="Acme SCCM",
        user="ACME\\ada",
        product="Visio",
        product_name="Visio",
        channel="ui",
        period_start=datetime(2026, 10, 1, tzinfo=UTC),
        period_end=datetime(2026, 11, 1, tzinfo=UTC),
        last_used_at=datetime(2026, 10, 30, 16, 45, tzinfo=UTC),
        runs=15,
        seconds=72_000,
        process="VISIO.EXE",
        version="16.0.1",
        platform="windows",
        device="PC-17",
    )
    assert (report.rows, report.good, report.bad, report.header_line) == (1, 1, 0, 1)


def test_a_report_with_a_title_above_its_heading_and_minutes() -> None:
    text = (
        "Users that have run a specific metered software program\r\n"
        "Generated;2026-11-02\r\n"
        "\r\n"
        "User Name;Computer Name;Product Name;Usage Count;Total Usage (minutes);Last Usage;Month\r\n"
        "ada;PC-17;Visio;4;30.5;10/31/2026 2:05:00 PM;2026-10\r\n"
    )
    (record,), report = usage(text, "sccm")
    assert (report.header_line, report.separator) == (4, ";")
    assert (record.seconds, record.runs) == (1_830, 4)
    assert record.last_used_at == datetime(2026, 10, 31, 14, 5, tzinfo=UTC)


def test_jamf_a_day_a_row_and_only_what_is_in_front_counts() -> None:
    (record,), report = usage(
        "Computer Name,Username,Application Name,Version,Date,Foreground (minutes),Open (minutes)\n"
        "MAC-3,ada@acme.example,Sketch.app,99.1,2026-10-25,12,540\n",
        "jamf",
        Options(source="Jamf", now=NOW, time_zone="Europe/Berlin"),
    )
    assert (record.user, record.product, record.seconds, record.platform) == (
        "ada@acme.example",
        "Sketch.app",
        720,
        "macos",
    )
    # The day on which the clocks go back has 25 hours.
    assert record.period_end - record.period_start == timedelta(hours=25)
    assert report.ignored_columns == ("Open (minutes)",)


def test_intune_tells_what_is_installed_and_nobodys_use() -> None:
    (record,), _ = installed(
        "ApplicationName,ApplicationPublisher,ApplicationVersion,Platform,DeviceName,UserPrincipalName,DeviceId\n"
        "Visio,Microsoft,16.0,Windows,PC-17,ada@acme.example,0f8fad5b\n",
        "intune",
    )
    assert record == Installation(
        source="Acme SCCM",
        device="PC-17",
        product="Visio",
        version="16.0",
        publisher="Microsoft",
        platform="windows",
        user="ada@acme.example",
    )
    with pytest.raises(NotOffered, match="read it as installations"):
        usage(PLAIN, "intune")


@pytest.mark.parametrize("feed", sorted(FEEDS))
def test_every_kind_takes_the_plain_names_too(feed: str) -> None:
    (record,), _ = installed("Device,Product,Version,Installed At\nPC,Visio,1,2026-01-02\n", feed)
    assert (record.device, record.product, record.installed_at) == ("PC", "Visio", datetime(2026, 1, 2, tzinfo=UTC))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Name,Price\nVisio,3\n", "Line 1: this is not the heading .* lacks a user or a device; a product"),
        ("User,Product,Seconds\nada,Visio,3\n", "a month or a day, or else the period"),
        ("User,Product,Month\nada,Visio,2026-10\n", "a time used .in seconds, minutes or hours., a count of runs"),
        ("", "The file is empty"),
        ("\n\n\n", "It has: nothing"),
        ("ada,Visio,2026-10,3\n" * 100, "Nothing was read"),
        ("<html><body>Sign in</body></html>", "not the heading"),
    ],
    ids=["another file", "no period", "no measure", "empty", "blank", "no heading", "a page"],
)
def test_a_wrong_heading_is_an_error_that_says_what_is_missing(text: str, words: str) -> None:
    with pytest.raises(Invalid, match=words) as caught:
        usage(text)
    assert caught.value.field == "file"


def test_an_unknown_kind_is_named() -> None:
    with pytest.raises(Invalid, match="sccm, intune, jamf, csv") as caught:
        usage(PLAIN, "altiris")
    assert caught.value.field == "feed"


def test_a_period_that_is_given_with_the_file_stands_for_every_row() -> None:
    period = (datetime(2026, 10, 1, tzinfo=UTC), datetime(2026, 11, 1, tzinfo=UTC))
    (record,), _ = usage("User,Product,Hours\nada,Visio,1.5\n", options=Options(source="x", now=NOW, period=period))
    assert (record.period_start, record.period_end, record.seconds) == (*period, 5_400)


# Encodings.


@pytest.mark.parametrize(
    ("codec", "name"),
    [
        ("utf-8", "UTF-8"),
        ("utf-8-sig", "UTF-8"),
        ("utf-16", "UTF-16"),
        ("utf-16-le", "UTF-16"),
        ("utf-16-be", "UTF-16"),
        ("cp1252", "Windows-1252"),
    ],
)
def test_every_encoding_gives_the_same_letters(codec: str, name: str) -> None:
    text = PLAIN + "zoë,PC,Größe,2026-10,60\r\n" + "ada,PC,Visio,2026-10,1\r\n"
    found, report = usage(text.encode(codec))
    assert [(each.user, each.product) for each in found] == [("zoë", "Größe"), ("ada", "Visio")]
    assert (report.encoding, report.bad) == (name, 0)


@pytest.mark.parametrize(("first", "second"), [("utf-8", "cp1252"), ("cp1252", "utf-8")])
def test_a_line_in_another_encoding_is_an_error_and_the_rest_is_kept(first: str, second: str) -> None:
    rows = ["zoë,PC,Visio,2026-10,1\n", "jürgen,PC,Visio,2026-10,2\n", "ada,PC,Visio,2026-10,3\n"]
    data = PLAIN.encode() + rows[0].encode(first) + rows[1].encode(second) + rows[2].encode() + rows[0].encode(first)
    found, report = usage(data)
    assert [each.user for each in found] == ["zoë", "ada", "zoë"]
    (problem,) = report.problems
    assert problem.line == 3
    assert "put together from files in two encodings" in problem.reason


def test_bytes_that_are_no_letter_are_an_error() -> None:
    found, report = usage(PLAIN.encode() + b"zo\xeb,PC,A,2026-10,1\nb\x81d,PC,A,2026-10,1\nada,PC,A,2026-10,1\n")
    assert ([each.user for each in found], [each.line for each in report.problems]) == (["zoë", "ada"], [3])


def test_utf16_that_breaks_off_loses_its_last_line_only() -> None:
    found, report = usage((PLAIN + "ada,PC,A,2026-10,1\nbo,PC,A,2026-10,2\n").encode("utf-16")[:-3])
    assert ([each.user for each in found], report.bad) == (["ada"], 1)


# Rows.


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("ada,PC,Visio,2026-10,ten", "seconds is no number"),
        ("ada,PC,Visio,2026-10,-5", "seconds is no number"),
        ("ada,PC,Visio,2026-10,1e9", "seconds is no number"),
        ("ada,PC,Visio,2026-13,5", "month is no month"),
        ("ada,PC,Visio,,5", "names neither a month nor a day"),
        ("ada,PC,,2026-10,5", "names neither a product nor a file"),
        (",,Visio,2026-10,5", "names neither a user nor a device"),
        ("ada,PC,Visio,2026-10,", "tells neither a time used"),
        ("ada,PC,Visio,2026-10", "has 4 cells, and the heading has 5"),
        ("ada,PC,Visio,2026-10,5,6", "has 6 cells, and the heading has 5"),
        (f"ada,PC,{'x' * 301},2026-10,5", "product is longer than 300 characters"),
        ("ada,PC,Vi\x00sio,2026-10,5", "product is longer than 300 characters, or is no text"),
        ('ada,PC,"Vi"sio,2026-10,5', "is no CSV"),
    ],
)
def test_a_bad_row_is_listed_with_its_line_and_the_good_ones_are_kept(row: str, reason: str) -> None:
    found, report = usage(f"{PLAIN}bo,PC,Visio,2026-10,1\n{row}\ncy,PC,Visio,2026-10,2\n")
    assert [each.user for each in found] == ["bo", "cy"]
    (problem,) = report.problems
    assert problem.line == 3
    assert problem.reason.startswith(reason)
    assert (report.rows, report.good, report.bad) == (3, 2, 1)


def test_a_mark_that_is_never_closed_costs_its_own_line_only() -> None:
    rows = [f"user{number},PC,Visio,2026-10,1\n" for number in range(3 * MOST_LINES_OF_A_ROW)]
    rows[10] = 'ada,PC,"Visio,2026-10,1\n'
    found, report = usage(PLAIN + "".join(rows))
    assert len(found) == len(rows) - 1
    assert [(each.line, each.reason) for each in report.problems] == [(12, "a quotation mark is not closed")]


def test_a_cell_may_go_over_lines_and_lines_are_counted_all_the_same() -> None:
    found, report = usage(PLAIN + 'ada,PC,"Visio\nPro",2026-10,1\nbo,PC,Visio,never,1\n')
    assert [each.product for each in found] == ["Visio Pro"]
    assert [each.line for each in report.problems] == [4]


def test_a_day_that_may_be_two_is_refused_unless_the_order_is_given() -> None:
    text = "User,Product,Date,Seconds\nada,Visio,03/04/2026,5\nada,Visio,25.04.2026,5\nada,Visio,04/04/2026,5\n"
    found, report = usage(text)
    assert [(each.line, "two different days" in each.reason) for each in report.problems] == [(2, True)]
    assert [each.period_start.day for each in found] == [25, 4]
    for order, month in (("month first", 3), ("day first", 4)):
        (first, *_), _ = usage(text, options=Options(source="x", now=NOW, date_order=order))  # type: ignore[arg-type]
        assert first.period_start.month == month


def test_times_are_in_the_zone_of_the_file_unless_they_name_one() -> None:
    options = Options(source="x", now=NOW, time_zone="America/New_York")
    found, _ = usage(
        "User,Product,Month,Last Used\n"
        "ada,Visio,2026-10,2026-10-31 23:30:00\n"
        "ada,Visio,2026-10,2026-10-31T23:30:00Z\n"
        "ada,Visio,2026-10,10/31/2026 11:30 PM\n",
        options=options,
    )
    assert [each.last_used_at for each in found] == [
        datetime(2026, 11, 1, 3, 30, tzinfo=UTC),
        datetime(2026, 10, 31, 23, 30, tzinfo=UTC),
        datetime(2026, 11, 1, 3, 30, tzinfo=UTC),
    ]
    assert found[0].period_start == datetime(2026, 10, 1, 4, 0, tzinfo=UTC)


def test_a_last_use_in_the_future_or_outside_its_period_cannot_be_right() -> None:
    found, report = usage("User,Product,Month,Last Used\nada,Visio,2026-12,2026-12-24\nbo,Visio,2026-10,2026-09-30\n")
    assert found == []
    assert [problem.reason for problem in report.problems] == [
        "last used lies in the future",
        "last used lies outside the month, day or period that the row is about",
    ]


@pytest.mark.parametrize(
    ("row", "column"),
    [
        ('"=HYPERLINK(""http://evil.example"",""x"")",PC,Visio,2026-10,1', "user"),
        ("ada,@PC,Visio,2026-10,1", "device"),
        ("ada,PC, +Visio,2026-10,1", "product"),
        ("ada,PC,-Visio,2026-10,1", "product"),
        ("ada,PC,\N{FULLWIDTH EQUALS SIGN}Visio,2026-10,1", "product"),
    ],
    ids=["equals", "at", "plus", "minus", "wide"],
)
def test_a_name_that_a_spreadsheet_would_run_is_refused(row: str, column: str) -> None:
    found, report = usage(f"{PLAIN}bo,PC,Visio,2026-10,1\n{row}\n-,PC,Visio,2026-10,2\n")
    assert [each.user for each in found] == ["bo", None], "a sign alone is a mark for nobody"
    assert [(each.line, each.reason.partition(":")[0]) for each in report.problems] == [
        (3, f"{column} begins like a formula")
    ]


def test_no_use_is_a_record_too() -> None:
    (record,), _ = usage("User,Product,Month,Seconds,Runs\nada,Visio,2026-10,0,0\n")
    assert (record.seconds, record.runs, record.last_used_at) == (0, 0, None)


def test_a_path_is_its_files_name() -> None:
    rows = "PC,C:\\Program Files\\Visio\\VISIO.EXE,2026-10,1\nMAC,/Applications/Sketch,2026-10,1\n"
    found, report = usage(f"Device,File Name,Month,Runs\n{rows}")
    assert [(each.process, each.product, each.product_name) for each in found] == [
        ("VISIO.EXE", "", "VISIO.EXE"),
        ("Sketch", "", "Sketch"),
    ]
    assert report.without_user == 2


def test_a_duration_may_be_a_clock() -> None:
    found, _ = usage(PLAIN + "ada,PC,Visio,202610,101:30:05\n")
    assert found[0].seconds == 101 * 3600 + 30 * 60 + 5


# Names.


def test_names_that_are_unknown_here_are_kept_and_listed() -> None:
    options = Options(source="x", now=NOW, knows={"ada"}.__contains__)
    found, report = usage(PLAIN + "ada,PC,A,2026-10,1\nzed,PC,A,2026-10,1\nzed,PC,B,2026-10,1\n", options=options)
    assert [each.user for each in found] == ["ada", "zed", "zed"]
    assert (list(report.unmatched), report.unmatched_rows) == (["zed"], 2)


def test_pseudonyms_are_nobodys_name_and_are_counted() -> None:
    found, report = usage(
        PLAIN + "5f4dcc3b5aa765d61d8327deb882cf99,PC,A,2026-10,1\nUnknown,PC,A,2026-10,1\nada,PC,A,2026-10,1\n"
    )
    assert [each.user for each in found] == [None, None, "ada"]
    assert (report.anonymous, report.good) == (2, 3)


# Large files.


class Endless(io.RawIOBase):
    """A file of so many rows that is never in memory as a whole."""

    def __init__(self, head: str, row: str, rows: int, codec: str = "utf-8") -> None:
        self.made = 0
        self._parts = self._made(head, row, rows, codec)
        self._rest = b""

    def _made(self, head: str, row: str, rows: int, codec: str) -> Iterator[bytes]:
        encoder = codecs.getincrementalencoder(codec)()
        yield encoder.encode(head)
        block = 500
        for start in range(0, rows, block):
            numbers = range(start, min(start + block, rows))
            self.made += len(numbers)
            yield encoder.encode("".join(row.format(n=number) for number in numbers))

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if not self._rest:
            self._rest = next(self._parts, b"")
        size = min(len(buffer), len(self._rest))
        buffer[:size], self._rest = self._rest[:size], self._rest[size:]
        return size


def big(head: str, row: str, rows: int) -> BinaryIO:
    return io.BufferedReader(Endless(head, row, rows))  # type: ignore[return-value]


@pytest.mark.parametrize("codec", ["utf-8", "utf-16"])
def test_a_file_of_any_length_is_read_as_it_is_taken(codec: str) -> None:
    source = Endless(PLAIN, "user{n}@acme.example,PC-{n},Visio,2026-10,{n}\n", 1_000_000, codec)
    reading = read_usage(io.BufferedReader(source), "csv", OPTIONS)  # type: ignore[arg-type]
    for taken in range(1, 6):
        page = next(iter(reading.pages))
        assert len(page) == 1_000
        assert source.made <= (taken + 3) * 1_000, "what is read ahead does not grow with the file"
    assert (reading.report.good, reading.report.bad) == (5_000, 0)


def test_lists_are_bounded_and_counts_are_not() -> None:
    row = "user{n},PC,Visio,never,1\n" + "x,{n}" + ",y" * 3 + "\n" + "user{n},PC,Visio,2026-10,1\n"
    options = Options(source="x", now=NOW, knows=lambda _name: False)
    reading = read_usage(big(PLAIN, row, 1_500), "csv", options)
    report = reading.report
    assert sum(len(page) for page in reading.pages) == 1_500
    assert (report.rows, report.bad, len(report.problems)) == (4_500, 3_000, MOST_PROBLEMS)
    assert (len(report.unmatched), report.unmatched_rows) == (MOST_NAMES, 1_500)
    assert sum(report.reasons.values()) == 3_000


def test_reasons_are_bounded_too() -> None:
    report = FeedReport()
    for number in range(2 * MOST_REASONS):
        report.refuse(number, f"has {number} cells")
    assert (len(report.reasons), report.bad) == (MOST_REASONS, 2 * MOST_REASONS)


@pytest.mark.parametrize("codec", ["utf-8", "utf-16"])
def test_a_line_without_end_is_an_error_and_not_the_memory_of_a_file(codec: str) -> None:
    long = "x" * (3 << 20)
    found, report = usage((PLAIN + f"ada,PC,{long},2026-10,1\nbo,PC,Visio,2026-10,1\n").encode(codec))
    assert [each.user for each in found] == ["bo"]
    assert [(each.line, each.reason) for each in report.problems] == [(2, "the line is longer than a megabyte")]


@given(st.binary(max_size=400))
def test_no_bytes_at_all_break_the_reading(data: bytes) -> None:
    found, report = usage(PLAIN.encode() + data)
    assert len(found) == report.good
    assert report.rows == report.good + report.bad


@given(
    st.lists(
        st.text(st.characters(blacklist_categories=("Cs", "Cc", "Zl", "Zp")), min_size=1, max_size=20).map(
            lambda text: " ".join(text.split())
        ),
        max_size=20,
    )
)
def test_whatever_a_name_holds_it_comes_back_as_it_was(names: list[str]) -> None:
    import csv

    written = io.StringIO()
    writer = csv.writer(written)
    for name in names:
        writer.writerow([name, "PC", "Visio", "2026-10", "1"])
    found, report = usage((PLAIN + written.getvalue()).encode("utf-8-sig"))
    printable = [name for name in names if name.isprintable() and (len(name) < 2 or cell(name) == name)]
    assert len(found) == len(printable)
    assert report.bad == len(names) - len(printable)
    assert all(record.user in (name, None) for record, name in zip(found, printable, strict=True))
