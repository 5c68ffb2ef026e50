"""The audit trail: one chain of hashes over everything that was accepted or refused.

Each entry's hash covers its content and the hash before it, so an entry that is changed, removed or put in between
breaks every later one. Personal data of a decision (IP address, user agent) is not in the chain: the entry holds a
salted digest of it, and the data with its salt lies beside, where it can be erased without breaking anything.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType
from typing import Final

import msgspec

GENESIS: Final = "0" * 64

_encoder = msgspec.json.Encoder(order="sorted")


class Entry(msgspec.Struct, frozen=True, gc=False):
    """One thing that happened to a case. `before` and `after` are states; equal when a command was refused.

    `actor` is a person's address or name, a rule, or the service itself; `personal` the digest of personal data. What
    is about no case has an empty `case_id` and no version.
    """

    case_id: str
    version: int
    at: datetime
    actor: str
    channel: str
    command: str
    accepted: bool
    before: str
    after: str
    note: str
    evidence: str
    personal: str | None = None


class Link(msgspec.Struct, frozen=True, gc=False):
    """An entry in its place: `hash` covers `previous`, the position and the entry."""

    position: int
    entry: Entry
    previous: str
    hash: str


class Personal(msgspec.Struct, frozen=True, gc=False):
    """Personal data that an entry commits to without containing it."""

    salt: str
    ip: str | None
    user_agent: str | None

    @classmethod
    def of(cls, ip: str | None, user_agent: str | None, salt: str) -> Personal | None:
        """Wrap what there is with a salt that nothing else has; None if there is nothing."""
        if ip is None and user_agent is None:
            return None
        return cls(salt, ip, user_agent)

    def digest(self) -> str:
        """Return what the entry holds instead of the data; without the salt it tells nothing."""
        return hashlib.sha256(_encoder.encode([self.salt, self.ip, self.user_agent])).hexdigest()


def fresh_salts(count: int) -> list[str]:
    """Return salts of 128 random bits. The system is asked once for all: asking costs more than all the rest."""
    drawn = secrets.token_hex(16 * count)
    return [drawn[start : start + 32] for start in range(0, len(drawn), 32)]


def link_hash(position: int, previous: str, entry: Entry) -> str:
    """Return the SHA-256 of a link, in hexadecimal, over its canonical JSON (sorted keys, UTC instants)."""
    return hashlib.sha256(_encoder.encode([position, previous, entry])).hexdigest()


def chain(entries: Sequence[Entry], *, position: int, previous: str) -> list[Link]:
    """Append entries behind the link at `position` whose hash is `previous` (0 and `GENESIS` for none)."""
    links = []
    for entry in entries:
        position += 1
        digest = link_hash(position, previous, entry)
        links.append(Link(position, entry, previous, digest))
        previous = digest
    return links


@dataclass(frozen=True, slots=True)
class Verification:
    """The outcome of reading the chain: how many entries, and the first fault, if any."""

    entries: int
    head: str
    fault: str | None

    @property
    def verified(self) -> bool:
        return self.fault is None


class Verifier:
    """Reads a chain in order, a page at a time, and stops believing at the first fault."""

    def __init__(self) -> None:
        self._position = 0
        self._previous = GENESIS
        self._versions: dict[str, int] = {}
        self.fault: str | None = None

    def read(self, links: Iterable[Link], personal: Mapping[int, Personal] = MappingProxyType({})) -> None:
        """Check the next links, and the personal data kept for them by position; a link may have none any more."""
        for link in links:
            if self.fault is not None:
                return
            self._check(link, personal.get(link.position))
            self._position, self._previous = link.position, link.hash

    def _check(self, link: Link, kept: Personal | None) -> None:
        if link.position != self._position + 1:
            self.fault = f"entry {self._position + 1} is missing: after {self._position} comes {link.position}"
        elif link.previous != self._previous:
            self.fault = f"entry {link.position} does not follow the entry before it"
        elif link.hash != link_hash(link.position, link.previous, link.entry):
            self.fault = f"entry {link.position} was changed after it was written"
        elif kept is not None and kept.digest() != link.entry.personal:
            self.fault = f"the address and browser kept beside entry {link.position} are not those it was written with"
        elif link.entry.accepted and link.entry.case_id:
            known = self._versions.get(link.entry.case_id, 0)
            if link.entry.version != known + 1:
                self.fault = (
                    f"case {link.entry.case_id}: version {link.entry.version} at entry {link.position} "
                    f"does not follow version {known}"
                )
            self._versions[link.entry.case_id] = link.entry.version

    def finish(self, *, position: int, head: str) -> Verification:
        """Compare the end with what the head row says, so that entries cut off at the end are noticed."""
        if self.fault is None and (position != self._position or head != self._previous):
            self.fault = f"the chain ends at entry {self._position}, but {position} entries were written"
        return Verification(self._position, self._previous, self.fault)
