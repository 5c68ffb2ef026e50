"""What `install` was given, as every page and route finds it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final
from urllib.parse import urlsplit

from fastapi import Request

from reclaim.common.clock import Clock
from reclaim.web.operators import OperatorRecord, Role, SignInAttempts
from reclaim.web.signing import Signer

SCOPE_KEY: Final = "reclaim.web"
SESSION_LIFETIME: Final = timedelta(hours=12)


@dataclass(frozen=True)
class NavItem:
    """One entry of the console's navigation; shown to operators whose role covers `role`, ordered by `order`."""

    label: str
    href: str
    order: int
    role: Role = "viewer"


@dataclass(frozen=True)
class Web:
    """The web part of one running application.

    `clock` is the time that pages speak of. `sign_in_clock` is the one that sessions, tokens and attempts live by:
    a demo that moves its clock by weeks does not sign its operator out.
    """

    secret_keys: Sequence[str] = field(repr=False)
    operators: Mapping[str, OperatorRecord]
    public_url: str
    navigation: Sequence[NavItem]
    clock: Clock
    sign_in_clock: Clock
    sessions: Signer = field(init=False, repr=False)
    form_nonces: Signer = field(init=False, repr=False)
    api_tokens: Signer = field(init=False, repr=False)
    attempts: SignInAttempts = field(init=False, repr=False)

    def __post_init__(self) -> None:
        now = self.sign_in_clock.now
        for name, purpose in (("sessions", "session"), ("form_nonces", "form"), ("api_tokens", "api")):
            object.__setattr__(self, name, Signer(self.secret_keys, purpose, now))
        object.__setattr__(self, "attempts", SignInAttempts(now))

    @property
    def https(self) -> bool:
        return urlsplit(self.public_url).scheme == "https"

    @property
    def origin(self) -> str:
        """Scheme and host of the public address, as a browser writes it into `Origin`."""
        parts = urlsplit(self.public_url)
        return f"{parts.scheme}://{parts.netloc}".lower()


@dataclass(frozen=True)
class Connected:
    """What the middleware leaves in the scope of a request: the application's web part, and the script nonce."""

    web: Web
    csp_nonce: str


def connected(request: Request) -> Connected:
    """Return what `install` connected this request to.

    Raises:
        RuntimeError: the application was started without `reclaim.web.host.install`.
    """
    found: Connected | None = request.scope.get(SCOPE_KEY)
    if found is None:
        raise RuntimeError("reclaim.web is not installed: call reclaim.web.host.install(app, ...) at start-up")
    return found
