"""The time, as an argument.

Domain code never asks for the time: it is given one. What gives it is a `Clock`, chosen by URL:

- `system:` reads the machine's clock; the only one a production process accepts.
- `file:///path` adds the seconds written in that file to the machine's clock, so that several processes
  (every service, and the simulated org) move together when a demo or a test moves the file.
"""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit


class Clock(Protocol):
    """Gives the present instant."""

    def now(self) -> datetime:
        """Return the present instant, timezone-aware, in UTC."""
        ...


class SystemClock:
    """The machine's clock."""

    def now(self) -> datetime:
        return datetime.now(UTC)


class FixedClock:
    """A clock that stands still until it is moved; for tests of one process."""

    def __init__(self, at: datetime) -> None:
        self._at = at

    def now(self) -> datetime:
        return self._at

    def advance(self, by: timedelta) -> None:
        """Move by a duration; a negative one moves back."""
        self._at += by


class FileClock:
    """The machine's clock plus an offset in seconds that a file holds; a missing file is an offset of zero."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._stamp: tuple[int, int] | None = None
        self._offset = timedelta()

    def now(self) -> datetime:
        return datetime.now(UTC) + self.offset()

    def offset(self) -> timedelta:
        """Return the offset that the file holds now."""
        try:
            stat = self.path.stat()
        except FileNotFoundError:
            return timedelta()
        # The inode changes with every `advance` (it renames), even within one tick of the file system's clock.
        stamp = (stat.st_ino, stat.st_mtime_ns)
        if stamp != self._stamp:
            self._offset = timedelta(seconds=float(self.path.read_text()))
            self._stamp = stamp
        return self._offset

    def advance(self, by: timedelta) -> None:
        """Move every process that reads the file; written by rename, so that none reads half a number."""
        offset = self.offset() + by
        self.path.parent.mkdir(parents=True, exist_ok=True)
        fresh = self.path.with_suffix(f".{os.getpid()}.tmp")
        fresh.write_text(repr(offset.total_seconds()))
        fresh.replace(self.path)


def open_clock(url: str) -> SystemClock | FileClock:
    """Return the clock that a URL names (`system:` or `file:///path`).

    Raises:
        ValueError: the URL names no clock; the message lists the ones there are.
    """
    parts = urlsplit(url)
    if parts.scheme == "system":
        return SystemClock()
    if parts.scheme == "file" and parts.path:
        return FileClock(Path(parts.path))
    raise ValueError(f"{url!r} names no clock: use system: or file:///path/to/offset")
