"""The clocks: the time is an argument, and a moved one moves everybody together."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from reclaim.common.clock import FileClock, FixedClock, SystemClock, open_clock

DAY = timedelta(days=1)


def near(clock: FileClock, moved: timedelta) -> bool:
    return abs(clock.now() - datetime.now(UTC) - moved) < timedelta(seconds=5)


def test_the_system_clock_is_aware_and_utc() -> None:
    now = SystemClock().now()
    assert now.utcoffset() == timedelta()
    assert abs(now - datetime.now(UTC)) < timedelta(seconds=5)


def test_a_fixed_clock_stands_until_it_is_moved() -> None:
    clock = FixedClock(datetime(2026, 11, 2, tzinfo=UTC))
    assert clock.now() == clock.now()
    clock.advance(DAY)
    clock.advance(-2 * DAY)
    assert clock.now() == datetime(2026, 11, 1, tzinfo=UTC)


def test_without_the_file_it_is_the_machines_clock(tmp_path: Path) -> None:
    clock = FileClock(tmp_path / "not" / "there")
    assert clock.offset() == timedelta()
    assert near(clock, timedelta())


def test_one_instance_moves_all_that_read_the_file(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "offset"
    one, other = FileClock(path), FileClock(path)
    assert other.offset() == timedelta()
    one.advance(14 * DAY)
    assert near(other, 14 * DAY)
    other.advance(timedelta(hours=-2))
    assert one.offset() == other.offset() == 14 * DAY - timedelta(hours=2)
    one.advance(-15 * DAY)
    assert near(other, -DAY - timedelta(hours=2))
    path.unlink()
    assert one.offset() == other.offset() == timedelta()


def test_moves_that_follow_one_another_at_once_are_all_seen(tmp_path: Path) -> None:
    one, other = FileClock(tmp_path / "offset"), FileClock(tmp_path / "offset")
    for step in range(1, 400):
        one.advance(timedelta(seconds=1))
        if step % 3 == 0:
            assert other.offset() == timedelta(seconds=step)


def test_fractions_survive(tmp_path: Path) -> None:
    one, other = FileClock(tmp_path / "offset"), FileClock(tmp_path / "offset")
    one.advance(timedelta(days=400, microseconds=1))
    assert other.offset() == timedelta(days=400, microseconds=1)


def test_nobody_reads_half_a_number(tmp_path: Path) -> None:
    """Every value seen while another moves it is one that it was moved to."""
    path = tmp_path / "offset"
    writer = FileClock(path)
    writer.advance(timedelta(seconds=1))
    seen: set[float] = set()
    failures: list[Exception] = []
    done = threading.Event()

    def read() -> None:
        reader = FileClock(path)
        while not done.is_set():
            try:
                seen.add(reader.offset().total_seconds())
            except Exception as error:
                failures.append(error)

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    for _ in range(12):
        writer.advance(writer.offset() * 9)
    done.set()
    for reader in readers:
        reader.join()
    assert not failures
    assert seen <= {10.0**power for power in range(13)}
    assert list(path.parent.iterdir()) == [path], "nothing is left beside it"


def test_a_url_names_a_clock(tmp_path: Path) -> None:
    assert isinstance(open_clock("system:"), SystemClock)
    opened = open_clock(f"file://{tmp_path}/offset")
    assert isinstance(opened, FileClock)
    assert opened.path == tmp_path / "offset"
    for wrong in ("", "ntp://pool.example", "file:", "/var/offset"):
        with pytest.raises(ValueError, match="use system: or file:///"):
            open_clock(wrong)
