"""Settings of the stage; each is an environment variable with the prefix `RECLAIM_ITSM_GATEWAY_`."""

from __future__ import annotations

import base64
import binascii
from typing import Final

from pydantic import SecretStr, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

PREFIX: Final = "whsec_"
SHORTEST_SECRET: Final = 24
"""Bytes; the least that Standard Webhooks recommends."""


class ItsmGatewaySettings(BaseSettings):
    """Who may send decisions.

    `webhook_secrets` maps a connection's id to its Standard Webhooks secrets (`whsec_` and base64), as JSON. All of
    them verify, so a secret is rotated by adding the new one, changing the sender, and taking the old one away.
    A connection without a secret is refused.
    """

    model_config = SettingsConfigDict(
        env_prefix="RECLAIM_ITSM_GATEWAY_", env_file=".env", extra="ignore", hide_input_in_errors=True
    )

    webhook_secrets: dict[str, list[SecretStr]] = {}

    @field_validator("webhook_secrets")
    @classmethod
    def _are_secrets(cls, value: dict[str, list[SecretStr]]) -> dict[str, list[SecretStr]]:
        for connection, secrets in value.items():
            for secret in secrets:
                _check(connection, secret.get_secret_value())
        return value


def _check(connection: str, secret: str) -> None:
    # The message never repeats the secret.
    try:
        key = base64.b64decode(secret.removeprefix(PREFIX), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if not secret.startswith(PREFIX) or len(key) < SHORTEST_SECRET:
        raise ValueError(
            f"the secret of {connection!r} is no Standard Webhooks secret: "
            f"write {PREFIX} and the base64 of at least {SHORTEST_SECRET} random bytes"
        )
