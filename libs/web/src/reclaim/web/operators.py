"""Who may use the console: roles, operators, and how a password is checked."""

from __future__ import annotations

import hashlib
import secrets
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cache
from typing import Final, Literal, get_args

from argon2 import PasswordHasher
from argon2.exceptions import Argon2Error, InvalidHashError

Role = Literal["viewer", "operator", "admin"]
ROLES: Final[tuple[Role, ...]] = get_args(Role)
"""From the least to the most powerful; each may do what the ones before it may."""

PERSONAL_ROLE: Final[Role] = "admin"
"""Who is shown addresses and browsers of decisions, and erases them."""

_HASHER: Final = PasswordHasher()


@cache
def _nobody() -> str:
    """Return the hash of a password that nobody knows: verified for a name that does not exist, so that the answer
    takes as long as for one that does.
    """
    return _HASHER.hash(secrets.token_urlsafe())


def covers(role: Role, needed: Role) -> bool:
    """Whether `role` includes what `needed` may do."""
    return ROLES.index(role) >= ROLES.index(needed)


@dataclass(frozen=True)
class OperatorRecord:
    """An operator as the settings name one: the argon2 hash of the password, and the role."""

    password_hash: str
    role: Role

    @property
    def fingerprint(self) -> str:
        """A short digest of the hash: a session carries it, and ends when the password is changed."""
        return hashlib.sha256(self.password_hash.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Operator:
    """Who sent the request. `via` says whether a browser session or an API token proved it."""

    name: str
    role: Role
    via: Literal["session", "token"]

    def may(self, needed: Role) -> bool:
        """Whether the operator's role includes what `needed` may do."""
        return covers(self.role, needed)


def hash_password(password: str) -> str:
    """Return the argon2 hash of a password, for an `OperatorRecord`. Takes tens of milliseconds on purpose."""
    return _HASHER.hash(password)


def password_fits(record: OperatorRecord | None, password: str) -> bool:
    """Check a password. A missing record (None) costs the same time and never fits."""
    try:
        _HASHER.verify(record.password_hash if record else _nobody(), password)
    except (Argon2Error, InvalidHashError):
        return False
    return record is not None


class SignInAttempts:
    """Counts tries to sign in over a sliding window, in the memory of this process.

    A try counts before the password is looked at, so that many at once do not slip through; a success takes the
    tries of that name from that address back. The limit for a name over all addresses is the widest: a stranger
    must not be able to lock an operator out with a handful of tries.
    """

    WINDOW: Final = timedelta(minutes=15)
    PER_NAME_AND_ADDRESS: Final = 5
    PER_ADDRESS: Final = 20
    PER_NAME: Final = 50
    MAX_KEYS: Final = 10_000

    def __init__(self, now: Callable[[], datetime]) -> None:
        self._now = now
        self._tries: OrderedDict[tuple[str | None, str | None], deque[datetime]] = OrderedDict()

    def admit(self, name: str, address: str) -> timedelta | None:
        """Count a try. Return None if it may go on, else how long to wait; a refused try is not counted."""
        now = self._now()
        limits = {
            (name, address): self.PER_NAME_AND_ADDRESS,
            (None, address): self.PER_ADDRESS,
            (name, None): self.PER_NAME,
        }
        waits = []
        for key, limit in limits.items():
            tries = self._recent(key, now)
            if len(tries) >= limit:
                waits.append(tries[-limit] + self.WINDOW - now)
        if waits:
            return max(waits)
        for key in limits:
            self._tries.setdefault(key, deque()).append(now)
            self._tries.move_to_end(key)
        while len(self._tries) > self.MAX_KEYS:
            self._tries.popitem(last=False)
        return None

    def forgive(self, name: str, address: str) -> None:
        """Take back the tries of a name from an address, after one of them succeeded."""
        count = len(self._tries.pop((name, address), ()))
        for key in ((None, address), (name, None)):
            tries = self._tries.get(key, deque())
            for _ in range(min(count, len(tries))):
                tries.pop()

    def _recent(self, key: tuple[str | None, str | None], now: datetime) -> Sequence[datetime]:
        # Looking leaves no trace: a flood of refused tries would otherwise push the counts that refuse it out.
        tries = self._tries.get(key)
        if tries is None:
            return ()
        while tries and tries[0] <= now - self.WINDOW:
            tries.popleft()
        return tries
