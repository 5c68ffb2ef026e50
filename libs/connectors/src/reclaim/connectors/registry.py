"""Which connector serves which kind of connection."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, Protocol, TypeVar

from reclaim.common.clock import Clock
from reclaim.common.contracts import ReclaimBy
from reclaim.common.errors import Invalid
from reclaim.common.outgoing import Outgoing
from reclaim.connectors import installed, okta, salesforce, scim
from reclaim.connectors.addresses import is_true
from reclaim.connectors.errors import NotOffered
from reclaim.connectors.ports import Capability, ConnectionProfile, SeatActor, SeatReader, UsageReader
from reclaim.connectors.usage_only import no_seats

Opened = TypeVar("Opened", covariant=True)


class Open(Protocol[Opened]):
    """Opens a connector that calls no other addresses than it may; nothing is sent before its first call."""

    def __call__(self, profile: ConnectionProfile, clock: Clock, /, *, outgoing: Outgoing) -> Opened: ...


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of connection: what it is called, what it can do, and how it is checked and opened.

    `stated` names the settings that add a capability when they are true: nobody but the administrator knows.
    `usage` opens a source that tells of use apart from seats, `actor` what can act; None where there is no such thing.
    A kind without the capability `seats` has a reader that can be tested, and says so to whoever asks it for seats.
    """

    label: str
    capabilities: frozenset[Capability]
    check: Callable[[Mapping[str, str], Mapping[str, str]], object]
    reader: Open[SeatReader]
    actor: Open[SeatActor] | None = None
    usage: Open[UsageReader] | None = None
    stated: Mapping[str, Capability] = field(default_factory=dict)


KINDS: Final[Mapping[str, Kind]] = {
    "salesforce": Kind(
        label="Salesforce org",
        capabilities=frozenset({"seats", "usage", "groups", "freeze", "reclaim", "downgrade", "hand_over"}),
        check=salesforce.read_profile,
        reader=salesforce.open_reader,
        actor=salesforce.open_actor,
    ),
    # Without `usage`: SCIM tells nobody's last use.
    "scim": Kind(
        label="SCIM service",
        capabilities=frozenset({"seats", "groups", "reclaim"}),
        stated={"freeze_by_deactivation": "freeze"},
        check=scim.read_profile,
        reader=scim.open_reader,
        actor=scim.open_actor,
    ),
    # Its seats are listed by whoever keeps the feeds' records; nothing is sent anywhere.
    "installed": Kind(
        label="Installed software",
        capabilities=frozenset({"seats"}),
        check=installed.read_profile,
        reader=installed.open_reader,
    ),
    "okta": Kind(
        label="Okta sign-in log",
        capabilities=frozenset({"usage"}),
        check=okta.read_profile,
        reader=okta.open_reader,
        usage=okta.open_reader,
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

    def usage_reader(self, profile: ConnectionProfile) -> UsageReader:
        """Return a source of usage; nothing is sent before its first call.

        Raises:
            NotOffered: this kind of connection tells nobody's use, or tells it with its seats only.
        """
        kind = _kind(profile.kind)
        if kind.usage is None:
            how = "tells of use with its seats only" if "usage" in kind.capabilities else "tells nobody's use"
            raise NotOffered(f"{kind.label}: this kind of connection {how}.")
        return kind.usage(profile, self._clock, outgoing=self._outgoing)

    def actor(self, profile: ConnectionProfile) -> SeatActor:
        """Return a connector that can act; nothing is sent before its first call.

        Raises:
            NotOffered: this kind of connection cannot act.
        """
        kind = _kind(profile.kind)
        if kind.actor is None:
            raise NotOffered(f"{kind.label}: this kind of connection cannot act; it only tells who used what.")
        return kind.actor(profile, self._clock, outgoing=self._outgoing)


def validate_profile(kind: str, settings: Mapping[str, str], credentials: Mapping[str, str]) -> None:
    """Check a connection's input without calling anybody.

    Raises:
        Invalid: something is missing or does not fit; `field` names it, the message says what to enter.
    """
    _kind(kind).check(settings, credentials)


def capabilities(kind: str, settings: Mapping[str, str]) -> frozenset[Capability]:
    """Return what a connection can do; Invalid, listing the kinds there are, if there is none of that name."""
    known = _kind(kind)
    return known.capabilities | {added for name, added in known.stated.items() if is_true(settings, name)}


def has_log(kind: str) -> bool:
    """Tell whether a kind of connection has a log of use apart from its seats, which `usage_reader` opens."""
    return _kind(kind).usage is not None


def must_hold_seats(kind: str, settings: Mapping[str, str]) -> None:
    """Refuse to make a rule for a connection that holds no seats; NotOffered, saying what to do instead."""
    if "seats" not in capabilities(kind, settings):
        raise NotOffered(no_seats(_kind(kind).label))


def must_be_able(kind: str, settings: Mapping[str, str], reclaim_by: ReclaimBy) -> None:
    """Refuse to let a rule act in a way that its connection cannot; a task for a person takes nothing but seats.

    Raises:
        NotOffered: saying what is missing and what to do.
    """
    must_hold_seats(kind, settings)
    able = capabilities(kind, settings)
    label = _kind(kind).label
    if reclaim_by == "downgrade" and "downgrade" not in able:
        raise NotOffered(f"{label}: there is no cheaper licence to move to. Let the rule deactivate, or give a task.")
    if reclaim_by == "deactivate" and not {"freeze", "reclaim"} <= able:
        states = [name for name, adds in _kind(kind).stated.items() if adds == "freeze"]
        first = f"Set {states[0]} to true on the connection if that does no harm there, or let" if states else "Let"
        raise NotOffered(
            f"{label}: it knows no freeze, and nothing is taken away without one. {first} the rule free its seats by a "
            "task for a person."
        )


def _kind(name: str) -> Kind:
    if name not in KINDS:
        raise Invalid(f"There is no kind of connection called {name!r}: use {', '.join(sorted(KINDS))}.", field="kind")
    return KINDS[name]
