"""Settings of the stage; each is an environment variable with the prefix `RECLAIM_ITSM_GATEWAY_`."""

from __future__ import annotations

from pydantic import SecretStr, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from reclaim.common.errors import Invalid
from reclaim.itsm_gateway.webhooks import check_secret


class ItsmGatewaySettings(BaseSettings):
    """Who may send decisions, beside those whose secrets the console keeps.

    `webhook_secrets` maps a generic connection's id to its Standard Webhooks secrets (`whsec_` and base64), as JSON.
    All of them verify, so a secret is rotated by adding the new one, changing the sender, and taking the old one away.
    A connection without a secret, here or in the console, is refused.
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
                try:
                    check_secret("generic", secret.get_secret_value())
                except Invalid as error:
                    raise ValueError(f"the secret of {connection!r} is no Standard Webhooks secret. {error}") from None
        return value

    def secrets(self) -> dict[str, list[str]]:
        """Return the secrets by connection, in the clear."""
        return {
            connection: [secret.get_secret_value() for secret in listed]
            for connection, listed in self.webhook_secrets.items()
        }
