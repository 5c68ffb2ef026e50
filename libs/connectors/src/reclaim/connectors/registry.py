"""Which connector serves which kind of connection."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Protocol, TypeVar

from reclaim.common.clock import Clock
from reclaim.common.errors import Invalid
from reclaim.common.outgoing import Outgoing
from reclaim.connectors import salesforce
from reclaim.connectors.ports import Capability, ConnectionProfile, SeatActor, SeatReader

Opened = TypeVar("Opened", covariant=True)


class Open(Protocol[Opened]):
    """Opens a connector that calls no other addresses than it may; nothing is sent before its first call."""

    def __call__(self, profile: ConnectionProfile, clock: Clock, /, *, outgoing: Outgoing) -> Opened: ...


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of connection: what it is called, what it can do, and how it is checked and opened."""

    label: str
    capabilities: frozenset[Capability]
    check: Callable[[Mapping[str, str], Mapping[str, str]], object]
    reader: Open[SeatReader]
    actor: Open[SeatActor]


KINDS: Final[Mapping[str, Kind]] = {
    "salesforce": Kind(
        label="Salesforce org",
        capabilities=frozenset({"seats", "usage", "freeze", "reclaim", "downgrade", "hand_over"}),
        check=salesforce.read_profile,
        reader=salesforce.open_reader,
        actor=salesforce.open_actor,
    ),
}


class Registry:
    """Opens connections by their kind: the `Connectors` of a running service.

    `outgoing` says which addresses may be called; without one, none inside a network.
    """

    def __init__(self, clock: Clock, outgoing: Outgoing | None = None) -> None:
        self._clock = clock
        self._outgoing = outgoing or Outgoing()

    def reader(self, profile: ConnectionProfile) -> SeatReader:
        """Return a connector that can only read; nothing is sent before its first call."""
        return _kind(profile.kind).reader(profile, self._clock, outgoing=self._outgoing)

    def actor(self, profile: ConnectionProfile) -> SeatActor:
        """Return a connector that can act; nothing is sent before its first call."""
        return _kind(profile.kind).actor(profile, self._clock, outgoing=self._outgoing)


def validate_profile(kind: str, settings: Mapping[str, str], credentials: Mapping[str, str]) -> None:
    """Check a connection's input without calling anybody.

    Raises:
        Invalid: something is missing or does not fit; `field` names it, the message says what to enter.
    """
    _kind(kind).check(settings, credentials)


def _kind(name: str) -> Kind:
    if name not in KINDS:
        raise Invalid(f"There is no kind of connection called {name!r}: use {', '.join(sorted(KINDS))}.", field="kind")
    return KINDS[name]
