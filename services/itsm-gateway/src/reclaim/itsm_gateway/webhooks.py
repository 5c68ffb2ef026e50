"""Whether a webhook is one: verified over its raw bytes, before anything reads them.

Three schemes. *Standard Webhooks* sign id, time and body. Jira signs the body alone, which carries its own time.
Freshservice can only send a secret along, so that what it says is never more than a hint. Each signed thing is taken
in one spelling only: of the texts that a lenient reader takes for the same signature, one is valid.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

from standardwebhooks import Webhook, WebhookVerificationError

from reclaim.common.errors import Invalid, Permanent
from reclaim.itsm_gateway import hints
from reclaim.itsm_gateway.hints import Platform

log = logging.getLogger(__name__)

Scheme = Literal["standard", "hub", "static"]
SCHEMES: Final[dict[Platform, Scheme]] = {
    "generic": "standard",
    "servicenow": "standard",
    "serval": "standard",
    "jira": "hub",
    "freshservice": "static",
}

LARGEST_BODY: Final = 64 * 1024
"""Bytes of a body; no more than that of a request is ever held."""

PAST: Final = 24 * 3600 * 1000
AHEAD: Final = 5 * 60 * 1000
"""Milliseconds that a Jira webhook's own time may lie back and ahead. The ledger remembers far longer than that."""

SAME_HINT: Final = 60_000
"""Milliseconds within which the same words without a signature count once."""

HEADERS: Final[dict[Scheme, tuple[str, ...]]] = {
    "standard": ("webhook-id", "webhook-timestamp", "webhook-signature"),
    "hub": ("x-hub-signature", "x-atlassian-webhook-identifier"),
    "static": ("x-reclaim-secret",),
}
"""What each scheme reads. A header that stands twice counts as none."""

_ID: Final = re.compile(r"[!-~]{1,256}")
_TIMESTAMP: Final = re.compile(r"[1-9][0-9]{0,11}")
_SIGNED: Final = re.compile(r"v1,[A-Za-z0-9+/]{42}[AEIMQUYcgkosw048]=")
_OF_ANOTHER_VERSION: Final = re.compile(r"v[0-9]{1,3}[a-z],[!-~]{1,512}")
_HUB: Final = re.compile(r"sha256=[0-9a-f]{64}")


class Refused(Permanent):
    """The webhook was not accepted. Says the same whatever the cause; the log says which it was."""

    status = 401
    title = "Not accepted"

    def __init__(self) -> None:
        super().__init__(
            "The webhook was not accepted. It needs a signature, or the secret, that is valid for this connection."
        )


class TooLarge(Permanent):
    """More than a webhook may send."""

    status = 413
    title = "Too large"

    def __init__(self) -> None:
        super().__init__(f"A webhook's body has at most {LARGEST_BODY // 1024} KiB.")


@dataclass(frozen=True, slots=True)
class Key:
    """One active secret of a connection. `id` is None for one that the settings name."""

    id: str | None
    platform: Platform
    secret: str = field(repr=False)
    _webhook: Webhook | None = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        webhook = Webhook(self.secret) if SCHEMES[self.platform] == "standard" else None
        object.__setattr__(self, "_webhook", webhook)

    @property
    def webhook(self) -> Webhook:
        assert self._webhook is not None
        return self._webhook


@dataclass(frozen=True, slots=True)
class Verified:
    """A webhook that its sender really sent. `once` are the ledger's entries: it is new only if none is there yet."""

    key: Key
    webhook_id: str
    once: tuple[str, ...]


NOBODYS: Final = Key(None, "generic", "whsec_" + "A" * 43 + "=")
"""Verified with where a connection has no secret, so that its refusal takes as long as another's. Never accepted."""


def verify(connection_id: str, keys: Sequence[Key], body: bytes, headers: Mapping[str, str], now: int) -> Verified:
    """Return the proof that the holder of one of the keys sent this. `now` is in milliseconds since 1970.

    Raises:
        Refused: there is no key, or nothing here proves anything.
    """
    scheme = SCHEMES[(keys[0] if keys else NOBODYS).platform]
    try:
        verified = _VERIFY[scheme](keys or (NOBODYS,), body, headers, now)
    except _NotProved as error:
        reason = str(error)
    else:
        if keys:
            return verified
    if not keys:
        reason = "no secret is configured for that connection"
    log.warning("webhook for %r refused: %s", connection_id, reason)
    raise Refused


def check_secret(platform: Platform, secret: str) -> None:
    """Check a secret that somebody entered.

    Raises:
        Invalid: it is too short, or not in the scheme's form. The message does not repeat it.
    """
    if SCHEMES[platform] == "standard":
        prefix, _, key = secret.partition("_")
        if prefix != "whsec" or not re.fullmatch(r"[A-Za-z0-9+/]{32,128}={0,2}", key) or len(key) % 4:
            raise Invalid(
                "Enter a Standard Webhooks secret: whsec_ and the base64 of 24 to 96 random bytes.", field="secret"
            )
    elif not re.fullmatch(r"[!-~]{24,256}", secret):
        raise Invalid("Enter 24 to 256 letters, digits or signs, without spaces.", field="secret")


class _NotProved(Exception):
    """Why a webhook is refused; for the log alone."""


def _standard(keys: Sequence[Key], body: bytes, headers: Mapping[str, str], _now: int) -> Verified:
    webhook_id, timestamp, signatures = (headers.get(name, "") for name in HEADERS["standard"])
    if not _ID.fullmatch(webhook_id):
        raise _NotProved("no usable webhook-id")
    if not _TIMESTAMP.fullmatch(timestamp):
        raise _NotProved("no usable webhook-timestamp")
    given = signatures.split(" ")
    signed = [each for each in given if _SIGNED.fullmatch(each)]
    if not signed or not all(each in signed or _OF_ANOTHER_VERSION.fullmatch(each) for each in given):
        raise _NotProved("no usable webhook-signature")
    told = {"webhook-id": webhook_id, "webhook-timestamp": timestamp, "webhook-signature": " ".join(signed)}
    for key in keys:
        try:
            key.webhook.verify(body, told, json_parse=False)
        except (WebhookVerificationError, ValueError) as error:
            # ValueError: a body that is no UTF-8 was signed by nobody.
            reason = str(error)
        else:
            return Verified(key, webhook_id, (webhook_id,))
    raise _NotProved(reason)


def _hub(keys: Sequence[Key], body: bytes, headers: Mapping[str, str], now: int) -> Verified:
    signature, webhook_id = (headers.get(name, "") for name in HEADERS["hub"])
    if not _HUB.fullmatch(signature):
        raise _NotProved("no usable X-Hub-Signature")
    if webhook_id and not _ID.fullmatch(webhook_id):
        raise _NotProved("no usable X-Atlassian-Webhook-Identifier")
    signers = [key for key in keys if hmac.compare_digest(_hub_signature(key.secret, body), signature)]
    if not signers:
        raise _NotProved("no secret signed it")
    at = hints.sent_at(body)
    if at is None or not now - PAST <= at <= now + AHEAD:
        raise _NotProved("it is too old, or from the future")
    # The identifier is not signed: whoever caught a webhook could send it again under another. Its body is.
    once = (f"body:{_digest(body)}",)
    return Verified(signers[0], webhook_id, (*once, f"id:{webhook_id}") if webhook_id else once)


def _hub_signature(secret: str, body: bytes) -> str:
    return "sha256=" + hmac.digest(secret.encode(), body, "sha256").hex()


def _static(keys: Sequence[Key], body: bytes, headers: Mapping[str, str], now: int) -> Verified:
    given = headers.get("x-reclaim-secret", "").encode("latin-1")
    senders = [key for key in keys if hmac.compare_digest(key.secret.encode(), given)]
    if not senders:
        raise _NotProved("no such secret")
    return Verified(senders[0], "", (f"hint:{_digest(body)}:{now // SAME_HINT}",))


def _digest(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


_VERIFY: Final[dict[Scheme, Callable[[Sequence[Key], bytes, Mapping[str, str], int], Verified]]] = {
    "standard": _standard,
    "hub": _hub,
    "static": _static,
}
