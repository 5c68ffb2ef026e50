"""A connection that stands for what feeds report as installed: there is no system behind it to call.

Who keeps the feeds' records lists its seats. What is opened here answers whoever has only the connection: that there is
nobody to ask.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from reclaim.common.clock import Clock
from reclaim.common.errors import Invalid
from reclaim.common.outgoing import Outgoing
from reclaim.connectors.ports import ConnectionProfile, TestResult
from reclaim.connectors.usage_only import WithoutSeats

MOST_SOURCES = 50


def read_profile(settings: Mapping[str, str], credentials: Mapping[str, str]) -> tuple[str, ...]:
    """Return the names of the feeds whose installations are its seats; none named means all.

    Raises:
        Invalid: too many names, one that is none, or credentials, which nobody here could use.
    """
    if credentials:
        raise Invalid("Installed software is read from feeds: it takes no credentials.", field=next(iter(credentials)))
    names = tuple(dict.fromkeys(name for part in settings.get("sources", "").split(",") if (name := part.strip())))
    if len(names) > MOST_SOURCES or any(len(name) > 100 or not name.isprintable() for name in names):
        raise Invalid(f"Name at most {MOST_SOURCES} feeds, apart by commas.", field="sources")
    return names


class Installed(WithoutSeats):
    """The `SeatReader` of a connection without a system."""

    def __init__(self) -> None:
        super().__init__("Installed software")

    async def test(self) -> Sequence[TestResult]:
        """There is nothing to try."""
        return []

    async def close(self) -> None:
        """There is nothing to give back."""


def open_reader(profile: ConnectionProfile, clock: Clock, /, *, outgoing: Outgoing) -> Installed:  # noqa: ARG001
    """Return what stands in for a system."""
    return Installed()
