"""The door for webhooks: small bodies only, verified over their raw bytes before anything reads them."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Final

from fastapi import Request
from standardwebhooks import Webhook, WebhookVerificationError

from reclaim.common.errors import Permanent

log = logging.getLogger(__name__)

LARGEST_BODY: Final = 64 * 1024
LONGEST_ID: Final = 256


class Refused(Permanent):
    """The webhook was not accepted. Says the same whatever the cause; the log says which it was."""

    status = 401
    title = "Not accepted"

    def __init__(self) -> None:
        super().__init__(
            "The webhook was not accepted. It needs a Standard Webhooks signature that is valid for this connection."
        )


class TooLarge(Permanent):
    """More than a webhook may send."""

    status = 413
    title = "Too large"


async def read_body(request: Request) -> bytes:
    """Return the raw body, never holding more of it than is allowed.

    Raises:
        TooLarge: there is more.
    """
    too_large = TooLarge(f"A webhook's body has at most {LARGEST_BODY // 1024} KiB.")
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > LARGEST_BODY:
        raise too_large
    body = bytearray()
    async for chunk in request.stream():
        if len(body) + len(chunk) > LARGEST_BODY:
            raise too_large
        body += chunk
    return bytes(body)


def verify(connection_id: str, secrets: Sequence[str], body: bytes, headers: Mapping[str, str]) -> str:
    """Return the id of a webhook that one of the secrets signed at most five minutes ago.

    Raises:
        Refused: no secret is configured, or none of them signed it.
    """
    webhook_id = headers.get("webhook-id", "")
    if not secrets:
        log.warning("webhook for %r refused: no secret is configured for that connection", connection_id)
        raise Refused
    if not 0 < len(webhook_id) <= LONGEST_ID or "\x00" in webhook_id:
        log.warning("webhook for %r refused: no usable webhook-id", connection_id)
        raise Refused
    for secret in secrets:
        try:
            Webhook(secret).verify(body, dict(headers), json_parse=False)
        except (WebhookVerificationError, ValueError) as error:
            # ValueError: what is malformed (base64, UTF-8, the list of signatures) is simply not signed.
            reason = str(error)
        else:
            return webhook_id
    log.warning("webhook for %r refused: %s", connection_id, reason)
    raise Refused
