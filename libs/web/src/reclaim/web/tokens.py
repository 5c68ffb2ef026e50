"""Tokens for programs. Nothing of the web framework is needed to make one: the command line does for each call."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Final

from reclaim.web.operators import ROLES, Role
from reclaim.web.signing import Signer

MAX_TOKEN_LIFETIME: Final = timedelta(days=366)


def issue_api_token(
    *, secret_keys: Sequence[str], name: str, role: Role, lifetime: timedelta, now: Callable[[], datetime]
) -> str:
    """Return a bearer token for the API, valid for `lifetime`.

    It stands by itself: it ends when it expires, or when the key that signed it is taken away.

    Raises:
        ValueError: the role is unknown, or the lifetime is not between a second and 366 days.
    """
    if role not in ROLES:
        raise ValueError(f"{role!r} is no role: use one of {', '.join(ROLES)}")
    if not timedelta(seconds=1) <= lifetime <= MAX_TOKEN_LIFETIME:
        raise ValueError(f"a token lives between a second and {MAX_TOKEN_LIFETIME.days} days")
    expires_at = int((now() + lifetime).timestamp())
    return Signer(secret_keys, "api", now).sign({"name": name, "role": role, "expires": expires_at})
