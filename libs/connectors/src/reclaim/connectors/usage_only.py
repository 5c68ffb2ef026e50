"""What a connection is that tells of use and holds no seats: whoever asks it for seats gets a clear answer."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import datetime
from typing import NoReturn

from reclaim.connectors.errors import NotOffered
from reclaim.connectors.ports import Grants, Licence, Members, SeatRecord, Survey


class WithoutSeats:
    """The part of a `SeatReader` that is about seats, for a connection that has none: each call says so."""

    def __init__(self, label: str) -> None:
        self._label = label

    async def licences(self) -> Sequence[Licence]:
        """Raise `NotOffered`."""
        self._none()

    def seats(self, products: Sequence[str]) -> AsyncIterator[Sequence[SeatRecord]]:
        """Raise `NotOffered`."""
        del products
        self._none()

    async def seats_of(self, holders: Sequence[str]) -> Mapping[str, SeatRecord]:
        """Raise `NotOffered`."""
        del holders
        self._none()

    async def survey(self, holders: Sequence[str] | None, *, since: datetime) -> Survey:
        """Raise `NotOffered`."""
        del holders, since
        self._none()

    async def members(self, groups: Sequence[str]) -> Mapping[str, Members]:
        """Raise `NotOffered`."""
        del groups
        self._none()

    async def grants(self, holders: Sequence[str]) -> Mapping[str, Grants]:
        """Raise `NotOffered`."""
        del holders
        self._none()

    async def open_records(self, holders: Sequence[str]) -> Mapping[str, Mapping[str, Sequence[str]]]:
        """Raise `NotOffered`."""
        del holders
        self._none()

    def _none(self) -> NoReturn:
        raise NotOffered(no_seats(self._label))


def no_seats(label: str) -> str:
    """Return what is said to whoever asks such a connection for seats."""
    return (
        f"{label}: it tells who used what, and holds no seats, so it cannot be scanned by itself. Connect the "
        "application that holds the seats, and make the rule for that connection."
    )
