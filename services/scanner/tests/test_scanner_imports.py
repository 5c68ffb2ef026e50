"""Files of use and installations: what becomes of their rows, again and again, and of a reader that dies."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from reclaim.common import timing
from reclaim.common.errors import Transient
from reclaim.scanner import catalog_actions, import_actions, import_jobs, import_store, usage_store
from reclaim.scanner.domain import Rejected
from reclaim.scanner.imports import read_wanted
from services.scanner.tests.feeds_world import DAY, chunks, found, refused, send
from services.scanner.tests.scanner_world import NOON, Scanner

USAGE = "User,Device,Product,File Name,Platform,Version,Month,Seconds,Runs,Last Used\n"
INSTALLED = "Device,Product,Version,Installed At,User\n"


async def catalogue(scanner: Scanner) -> None:
    for product in (
        {"key": "WORD", "name": "Word", "processes": ["windows:winword.exe", "macos:microsoft word"]},
        {"key": "EXCEL", "name": "Excel", "processes": ["windows:excel.exe"]},
        {"key": "VISIO", "name": "Visio Professional", "processes": ["windows:visio.exe"]},
        {"key": "VIEWER", "name": "Visio Viewer", "processes": ["windows:visio.exe"]},
    ):
        await catalog_actions.add_product(scanner.deps, product, author="otto")


async def records(scanner: Scanner) -> list[tuple[Any, ...]]:
    rows = await scanner.rows(
        "SELECT user_name, product, device, period_start, seconds, runs FROM usage_records "
        "ORDER BY user_name, product, device, period_start"
    )
    return [(row[0], row[1], row[2], str(row[3])[:10], row[4], row[5]) for row in rows]


async def test_the_process_drives_what_a_row_is_about_then_the_product(both: Scanner) -> None:
    await catalogue(both)
    one = await send(
        both,
        USAGE
        + "ann@acme.example,PC-1,Microsoft Office 2016,WINWORD.EXE,Windows 11,,2026-10,60,1,\n"
        + "ann@acme.example,PC-1,excel,,,,2026-10,70,1,\n"
        + "ann@acme.example,PC-1,visio professional,,,,2026-10,80,1,\n"
        + "ann@acme.example,MAC-1,Microsoft Word.app,,macOS,,2026-10,90,1,\n"
        + "ann@acme.example,PC-2,,visio.exe,windows,,2026-10,100,1,\n"
        + "ann@acme.example,PC-1,Other,,,,2026-10,110,1,\n"
        + "ann@acme.example,PC-1,,other.exe,,,2026-10,120,1,\n",
    )
    assert [(product, device, seconds) for _, product, device, _, seconds, _ in await records(both)] == [
        ("EXCEL", "PC-1", 70),
        ("Other", "PC-1", 110),
        ("VIEWER", "PC-2", 100),
        ("VISIO", "PC-1", 80),
        ("VISIO", "PC-2", 100),
        ("WORD", "MAC-1", 90),
        ("WORD", "PC-1", 60),
    ]
    assert (one.status, one.rows, one.bad, one.kept) == ("finished", 7, 0, 7)
    assert (one.findings.unknown, one.findings.left_out) == ({"Other": 1, "other.exe": 1}, 1)


async def test_rows_of_one_use_are_summed_wherever_they_stand_and_repeated_ones_count_once(
    both: Scanner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(import_jobs, "SUMS", 2)
    await catalogue(both)
    rows = [
        "ann@acme.example,PC-1,,winword.exe,windows,15,2026-10,100,1,2026-10-05 10:00:00",
        "ben@acme.example,PC-1,,winword.exe,windows,16,2026-10,7,1,",
        "ANN@acme.example,PC-1,,winword.exe,windows,16,2026-10,30,2,2026-10-07 10:00:00",
        "ann@acme.example,PC-2,,winword.exe,windows,16,2026-10,1,1,",
        "ann@acme.example,PC-1,,winword.exe,windows,16,2026-09,5,1,",
        "ann@acme.example,PC-1,,winword.exe,windows,15,2026-10,100,1,2026-10-05 10:00:00",
    ]
    one = await send(both, USAGE + "\n".join(rows))
    # Which spelling of a name is kept is the database's choice, and so is its place in the order.
    assert sorted(
        (user.lower(), device, day, seconds, runs) for user, _, device, day, seconds, runs in await records(both)
    ) == [
        ("ann@acme.example", "PC-1", "2026-09-01", 5, 1),
        ("ann@acme.example", "PC-1", "2026-10-01", 130, 3),
        ("ann@acme.example", "PC-2", "2026-10-01", 1, 1),
        ("ben@acme.example", "PC-1", "2026-10-01", 7, 1),
    ]
    assert (one.rows, one.kept) == (6, 4)
    last = await both.rows("SELECT max(last_used_by) FROM usage_records WHERE seconds = 130")
    assert "2026-10-07" in str(last[0][0])
    assert await both.rows("SELECT * FROM import_rows") == []
    assert await both.rows("SELECT * FROM import_parts") == []


async def test_the_same_file_again_changes_nothing(both: Scanner) -> None:
    text = USAGE + "ann@acme.example,PC-1,Visio,,,,2026-10,100,1,\nben@acme.example,PC-1,Visio,,,,2026-10,7,1,\n"
    await send(both, text, complete="yes")
    before = await records(both)
    both.clock.advance(DAY)
    again = await send(both, text, complete="yes")
    assert (await records(both), again.kept) == (before, 2)
    async with both.deps.database.reading() as db:
        (report,) = await usage_store.reports(db)
    assert report.heard_at == NOON + DAY


async def test_a_period_is_complete_only_if_asked_for_and_no_row_was_refused(both: Scanner) -> None:
    good, bad = "ann@acme.example,PC-1,Visio,,,,2026-10,100,1,\n", "ben@acme.example,PC-1,Visio,,,,2026-10,x,1,\n"
    unasked = await send(both, USAGE + good, source="one")
    spoilt = await send(both, USAGE + good + bad, source="two", complete="yes")
    early = await send(both, USAGE + good.replace("2026-10", "2026-11"), source="three", complete="yes")
    whole = await send(both, USAGE + good, source="four", complete="yes")
    assert [str(one.vouched).partition(",")[0].partition(":")[0] for one in (unasked, spoilt, early, whole)] == [
        "Not marked complete",
        "Not marked complete",
        "Not marked complete",
        "Marked complete from 2026-10-01 to 2026-11-01.",
    ]
    assert (spoilt.bad, spoilt.kept) == (1, 1)
    async with both.deps.database.reading() as db:
        reports = await usage_store.reports(db)
    assert [(report.source, report.product, report.timed, report.anonymised) for report in reports] == [
        ("four", "", True, False)
    ]
    assert reports[0].silence == 40 * DAY


async def test_rows_that_hide_who_it_was_are_kept_for_the_device_and_prove_nobodys_absence(both: Scanner) -> None:
    one = await send(
        both,
        USAGE
        + "ann@acme.example,PC-1,Visio,,,,2026-10,100,1,\n"
        + ",PC-2,Visio,,,,2026-10,50,1,\n"
        + "5d41402abc4b2a76b9719d911017c592,PC-3,Visio,,,,2026-10,,1,\n"
        + "5d41402abc4b2a76b9719d911017c592,,Visio,,,,2026-10,10,1,\n",
        complete="yes",
    )
    assert [(user, device) for user, _, device, *_ in await records(both)] == [
        ("ann@acme.example", "PC-1"),
        ("device:PC-2", "PC-2"),
        ("device:PC-3", "PC-3"),
    ]
    assert (one.findings.without_user, one.findings.anonymous, one.findings.left_out) == (1, 2, 1)
    async with both.deps.database.reading() as db:
        (report,) = await usage_store.reports(db)
    assert (report.anonymised, report.timed) == (True, False)


async def test_the_period_that_was_given_holds_for_rows_without_one(both: Scanner) -> None:
    one = await send(
        both,
        "User,Device,Product,Last Used\nann@acme.example,PC-1,Visio,10/31/2026 23:30\n",
        first_day="2026-10-01",
        last_day="2026-10-31",
        time_zone="America/New_York",
        date_order="month_first",
        complete="yes",
    )
    assert one.status == "finished"
    async with both.deps.database.reading() as db:
        (report,) = await usage_store.reports(db)
    assert (report.period.start, report.period.end) == (
        datetime(2026, 10, 1, 4, tzinfo=UTC),
        datetime(2026, 11, 1, 4, tzinfo=UTC),
    )


async def test_installations_fill_the_inventory_and_what_is_listed_no_more_goes_only_if_all_was_said(
    both: Scanner,
) -> None:
    await catalogue(both)
    text = INSTALLED + "PC-1,Visio Professional,16.1,2026-01-05,ann@acme.example\nPC-2,Unknown Tool,2,,\n"
    one = await send(both, text, what="installations", shape="sccm", complete="yes")
    assert (one.kept, one.findings.unknown) == (2, {"Unknown Tool": 1})
    part = INSTALLED + "PC-1,Visio Professional,16.2,,ann@acme.example\n"
    for complete, left in (("", ["Unknown Tool", "VISIO"]), ("yes", ["VISIO"])):
        both.clock.advance(DAY)
        one = await send(both, part, what="installations", shape="sccm", complete=complete)
        rows = await both.rows("SELECT product, version FROM installations ORDER BY product")
        assert [row.product for row in rows] == left
    assert one.vouched == "Marked complete: 1 installations that were listed before are not any more."
    assert rows[0].version == "16.2"


async def test_a_list_that_is_read_after_a_newer_one_is_not_kept_and_says_so(both: Scanner) -> None:
    asked_at = both.clock.now()
    both.clock.advance(DAY)
    raw = {"shape": "sccm", "what": "installations", "complete": "yes"}
    first = await send(both, INSTALLED + "PC-1,Visio,1,,\n", **raw)
    both.clock.advance(asked_at - both.clock.now())
    late = await send(both, INSTALLED + "PC-1,Visio,1,,\nPC-2,Visio,1,,\n", **raw)
    assert (late.status, late.kept) == ("finished", 0)
    assert late.vouched == f"Not kept: a newer whole list of {first.source} was read already."
    assert [row.device for row in await both.rows("SELECT device FROM installations")] == ["PC-1"]


async def test_a_list_of_no_installation_takes_none_for_gone(both: Scanner) -> None:
    await send(both, INSTALLED + "PC-1,Visio,1,,\n", what="installations", complete="yes")
    one = await send(both, INSTALLED, what="installations", complete="yes")
    assert one.vouched == "Not marked complete: the file lists no installation."
    assert len(await both.rows("SELECT * FROM installations")) == 1


@pytest.mark.parametrize("stage", ["rows", "sums"])
async def test_a_reader_that_is_killed_leaves_nothing_half_done(
    both: Scanner, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    """A process dies in mid-file: another one reads it again, and every use is there once."""
    monkeypatch.setattr(import_jobs, "SUMS", 1_000)
    text = USAGE + "".join(f"u{n % 3000}@acme.example,PC-1,Visio,,,{n},2026-10,1,1,\n" for n in range(9_000))
    begun = await import_actions.receive(
        both.deps, read_wanted({"shape": "csv", "complete": True}), chunks(text.encode()), author="otto"
    )
    name = "stage" if stage == "rows" else "take_sums"
    real, calls = getattr(import_store, name), [0]

    async def dies(*args: Any, **more: Any) -> Any:
        calls[0] += 1
        if calls[0] == 2:
            raise KeyboardInterrupt
        return await real(*args, **more)

    monkeypatch.setattr(import_store, name, dies)
    with pytest.raises(KeyboardInterrupt):
        await both.job("import")
    assert not await both.job("import")
    monkeypatch.setattr(timing, "_source", lambda: time.time() + 60)
    while await both.job("import"):
        pass
    one = await found(both, begun.id)
    assert (one.status, one.attempts, one.rows, one.kept) == ("finished", 2, 9_000, 3_000)
    assert {row[4] for row in await records(both)} == {3}


async def test_a_reader_that_lost_its_lease_writes_nothing_more(
    scanner: Scanner, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = await import_actions.receive(
        scanner.deps,
        read_wanted({"shape": "csv"}),
        chunks((USAGE + "ann@acme.example,PC-1,Visio,,,,2026-10,1,1,\n").encode()),
        author="otto",
    )
    real = import_store.stage

    async def late(db: Any, *args: Any) -> None:
        await real(db, *args)
        monkeypatch.setattr(timing, "_source", lambda: time.time() + 60)
        await import_store.claim(db, lease_seconds=30)

    monkeypatch.setattr(import_store, "stage", late)
    assert await scanner.job("import")
    assert await records(scanner) == []
    assert (await found(scanner, begun.id)).status == "running"


async def test_what_passes_is_tried_again_and_what_does_not_is_told(
    scanner: Scanner, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = usage_store.add_records
    troubles: list[Exception] = [Transient("the database rests"), ValueError("a defect")]

    async def troubled(*args: Any, **more: Any) -> Any:
        if troubles:
            raise troubles.pop(0)
        return await real(*args, **more)

    monkeypatch.setattr(usage_store, "add_records", troubled)
    text = USAGE + "ann@acme.example,PC-1,Visio,,,,2026-10,1,1,\n"
    begun = await import_actions.receive(
        scanner.deps, read_wanted({"shape": "csv"}), chunks(text.encode()), author="otto"
    )
    await scanner.job("import")
    waiting = await found(scanner, begun.id)
    assert (waiting.status, waiting.problem) == ("waiting", "the database rests")
    await asyncio.sleep(0.05)
    await scanner.job("import")
    failed = await found(scanner, begun.id)
    assert (failed.status, failed.problem) == ("failed", "An error on our side: ValueError.")
    assert (await send(scanner, text)).status == "finished"


async def test_a_file_that_never_arrives_whole_is_given_up(both: Scanner, monkeypatch: pytest.MonkeyPatch) -> None:
    async with both.deps.database.unit() as unit:
        wanted = read_wanted({"shape": "csv", "source": "slow"})
        import_id = await import_store.begin(
            unit.db,
            source=wanted.source,
            shape=wanted.shape,
            what=wanted.what,
            file_name=wanted.file_name,
            terms=wanted.terms,
            author="otto",
            now=unit.now,
            within=30,
        )
        await import_store.add_part(unit.db, import_id, 0, USAGE.encode(), within=30)
    assert not await both.job("import")
    monkeypatch.setattr(timing, "_source", lambda: time.time() + 60)
    assert await both.job("import")
    one = await found(both, import_id)
    assert (one.status, one.problem) == ("failed", "The file did not arrive whole.")
    assert await both.rows("SELECT * FROM import_parts") == []


async def test_a_connection_that_breaks_while_it_sends_leaves_nothing(scanner: Scanner) -> None:
    async def broken() -> Any:
        yield USAGE.encode() + b"x" * import_actions.PART
        raise ConnectionResetError("the client went away")

    with pytest.raises(ConnectionResetError):
        await import_actions.receive(scanner.deps, read_wanted({"shape": "csv"}), broken(), author="otto")
    assert await scanner.rows("SELECT * FROM imports") == []
    assert await scanner.rows("SELECT * FROM import_parts") == []


async def test_a_file_that_is_too_long_is_refused_while_it_comes(scanner: Scanner) -> None:
    scanner.deps.settings.import_most_bytes = 1_000_000
    try:
        said = await refused(
            import_actions.receive(
                scanner.deps,
                read_wanted({"shape": "csv"}),
                chunks(USAGE.encode(), *[b"ann,PC,Visio,,,,2026-10,1,1,\n" * 1_000] * 50),
                author="otto",
            )
        )
    finally:
        scanner.deps.settings.import_most_bytes = 512 * 1024 * 1024
    assert said.startswith("The file has more than 1,000,000 bytes")
    assert await scanner.rows("SELECT * FROM imports") == []


@pytest.mark.parametrize(
    ("raw", "field", "says"),
    [
        ({"shape": "excel"}, "shape", "sccm, intune, jamf, csv"),
        ({"shape": "intune"}, "what", "choose installations"),
        ({"shape": "csv", "what": "seats"}, "what", "usage, installations"),
        ({"shape": "csv", "time_zone": "Mars/Base"}, "time_zone", "Europe/Berlin"),
        ({"shape": "csv", "date_order": "year"}, "date_order", "month first"),
        ({"shape": "csv", "first_day": "2026-10-01"}, "last_day", "both"),
        ({"shape": "csv", "first_day": "2026-10-31", "last_day": "2026-10-01"}, "last_day", "after"),
        ({"shape": "csv", "first_day": "soon", "last_day": "2026-10-01"}, "first_day", "2026-10-31"),
        ({"shape": "csv", "silence_days": "400"}, "silence_days", "1 to 40"),
        ({"shape": "csv", "source": "x" * 101}, "source", "1 to 100"),
    ],
)
def test_what_is_said_with_a_file_is_checked(raw: dict[str, str], field: str, says: str) -> None:
    with pytest.raises(Rejected) as refusal:
        read_wanted(raw)
    assert says in refusal.value.by_field[field]


def test_a_source_is_called_as_its_tool_unless_it_is_given_a_name() -> None:
    assert read_wanted({"shape": "sccm"}).source == "sccm"
    assert read_wanted({"shape": "sccm", "source": " Head  office "}).source == "Head office"
    assert timedelta(days=read_wanted({"shape": "sccm"}).terms.silence_days) == 40 * DAY
