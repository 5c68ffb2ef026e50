"""Signed links: what stands in them, and how one is read back."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final
from urllib.parse import urlencode

import msgspec

from reclaim.approvals.domain import ALLOWED, Link, Purpose
from reclaim.common.security import Forged, Signer

VERSION: Final = 1
MAX_TOKEN: Final = 2_000
_PURPOSES: Final[tuple[Purpose, ...]] = ("decision", "appeal")


class _Document(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    v: int
    case: str
    epoch: int
    recipient: str
    allowed: tuple[str, ...]
    exp: int
    jti: str


class Links:
    """Makes and reads the links of one installation."""

    def __init__(self, signer: Signer, public_url: str) -> None:
        self._signer = signer
        self._base = public_url.rstrip("/")

    def token(
        self, purpose: Purpose, *, case_id: str, epoch: int, recipient: str, expires_at: datetime, jti: str
    ) -> str:
        """Return a signed token, to the second. `jti` must be random: at least 128 bits."""
        document = _Document(
            v=VERSION,
            case=case_id,
            epoch=epoch,
            recipient=recipient,
            allowed=ALLOWED[purpose],
            exp=int(expires_at.timestamp()),
            jti=jti,
        )
        return self._signer.sign(purpose, msgspec.to_builtins(document))

    def url(self, token: str, choice: str | None = None) -> str:
        """Return the address of a token's page; `choice` only preselects an answer there."""
        query = f"?{urlencode({'choice': choice})}" if choice else ""
        return f"{self._base}/approvals/d/{token}{query}"

    def read(self, token: str) -> Link:
        """Return what a token says.

        Raises:
            Forged: it was altered, made for something else, or signed with a key that is no longer in use.
        """
        if len(token) <= MAX_TOKEN:
            for purpose in _PURPOSES:
                try:
                    document = msgspec.convert(self._signer.verify(purpose, token), _Document)
                except (Forged, msgspec.ValidationError):
                    continue
                if document.v == VERSION:
                    return Link(
                        purpose=purpose,
                        case_id=document.case,
                        epoch=document.epoch,
                        recipient=document.recipient,
                        choices=tuple(choice for choice in document.allowed if choice in ALLOWED[purpose]),
                        expires_at=datetime.fromtimestamp(document.exp, UTC),
                        jti=document.jti,
                    )
        raise Forged("The link is damaged or was not made here. Open it again from the original message.")
