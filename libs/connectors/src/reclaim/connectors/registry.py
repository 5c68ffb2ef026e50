"""Which connector serves which kind of connection."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from reclaim.common.clock import Clock
from reclaim.common.errors import Invalid
from reclaim.connectors import salesforce
from reclaim.connectors.ports import Capability, ConnectionProfile, SeatActor, SeatReader


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of connection: what it is called, what it can do, and how it is checked and opened."""

    label: str
    capabilities: frozenset[Capability]
    check: Callable[[Mapping[str, str], Mapping[str, str]], object]
    reader: Callable[[ConnectionProfile, Clock], SeatReader]
    actor: Callable[[ConnectionProfile, Clock], SeatActor]


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
    """Opens connections by their kind: the `Connectors` of a running service."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def reader(self, profile: ConnectionProfile) -> SeatReader:
        """Return a connector that can only read; nothing is sent before its first call."""
        return _kind(profile.kind).reader(profile, self._clock)

    def actor(self, profile: ConnectionProfile) -> SeatActor:
        """Return a connector that can act; nothing is sent before its first call."""
        return _kind(profile.kind).actor(profile, self._clock)


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
