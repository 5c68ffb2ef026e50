"""Settings that every service has; each is an environment variable with the prefix `RECLAIM_`.

Two URLs choose the size: `bus_url` (`inproc://` or `amqp://...`) and `database_url` (SQLite or PostgreSQL).
A service's own settings are in its `settings.py`, with its own prefix (`RECLAIM_APPROVALS_...`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from cryptography.fernet import Fernet
from pydantic import Field, SecretStr, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from reclaim.common.bus import SETTLES
from reclaim.common.outgoing import Outgoing
from reclaim.common.security import Notary, kept_key


class Settings(BaseSettings):
    """What the host, the bus and the databases need to know.

    `database_url` may hold `{service}`, which becomes the service's name with underscores: one database a service.
    `secret_keys` sign links, sessions and tokens, and `sealing_keys` encrypt stored credentials; the first of each
    is used for new ones and all for old ones, so a key is rotated by putting a new one in front.
    `audit_keys` sign the checkpoints of the audit trail, in the same manner; without any, a key is made in `data_dir`.
    `forwarded_allow_ips` are the addresses (or `*`) of the proxies that may say, by X-Forwarded-For, who a client is;
    without any the header is not believed.
    `bus_settle_seconds` is for how long, after the broker was away or the process was started, others may still be
    about to publish what had to wait; what must hear them first (a time-out) waits so long.
    `outgoing_allowed_hosts` are the hosts and networks inside that connections may lead to (see `outgoing`).
    `operators` maps a local operator's name to `role:argon2-hash`.
    """

    model_config = SettingsConfigDict(env_prefix="RECLAIM_", env_file=".env", extra="ignore", hide_input_in_errors=True)

    environment: Literal["production", "demo", "test"] = "production"
    bus_url: str = "inproc://"
    bus_prefix: str = "reclaim"
    bus_settle_seconds: float = Field(default=SETTLES, ge=0)
    data_dir: Path = Path("var")
    database_url: str = "sqlite+aiosqlite:///{data_dir}/{service}.db"
    clock_url: str = "system:"
    secret_keys: list[SecretStr] = []
    sealing_keys: list[SecretStr] = []
    audit_keys: list[SecretStr] = []
    outgoing_allowed_hosts: list[str] = []
    operators: dict[str, str] = {}
    public_url: str = "http://127.0.0.1:8080"
    host: str = "127.0.0.1"
    port: int = 8080
    forwarded_allow_ips: str = ""
    log_format: Literal["console", "json"] = "json"
    log_level: str = "INFO"
    otlp_endpoint: str | None = None

    @model_validator(mode="after")
    def _only_a_rehearsal_may_move_time(self) -> Self:
        if self.environment == "production" and self.clock_url != "system:":
            raise ValueError("RECLAIM_CLOCK_URL: a movable clock is for demo and test; production uses system:")
        return self

    @model_validator(mode="after")
    def _keys_are_given(self) -> Self:
        if not self.secret_keys or not self.sealing_keys:
            raise ValueError(
                "RECLAIM_SECRET_KEYS and RECLAIM_SEALING_KEYS are not set: `reclaim init` writes both into .env"
            )
        if any(len(key.get_secret_value()) < 32 for key in self.secret_keys):
            raise ValueError("RECLAIM_SECRET_KEYS: each key needs at least 32 characters; `reclaim init` makes one")
        for key in self.sealing_keys:
            try:
                Fernet(key.get_secret_value())
            except ValueError as error:
                raise ValueError(
                    "RECLAIM_SEALING_KEYS: each key is 32 bytes in URL-safe base64; `reclaim init` makes one"
                ) from error
        return self

    @model_validator(mode="after")
    def _audit_keys_are_seeds(self) -> Self:
        for key in self.audit_keys:
            try:
                Notary([key.get_secret_value()])
            except ValueError as error:
                raise ValueError(
                    "RECLAIM_AUDIT_KEYS: each key is 32 bytes in URL-safe base64; `reclaim init` makes one"
                ) from error
        return self

    @model_validator(mode="after")
    def _allowed_hosts_are_hosts(self) -> Self:
        Outgoing(self.outgoing_allowed_hosts)
        return self

    def database_for(self, service: str) -> str:
        """Return the database URL of one service."""
        return self.database_url.format(service=service.replace("-", "_"), data_dir=self.data_dir)

    def signing_keys(self) -> list[str]:
        """Return the keys that sign, newest first."""
        return [key.get_secret_value() for key in self.secret_keys]

    def outgoing(self) -> Outgoing:
        """Return what decides which addresses an operator's URL may lead to."""
        return Outgoing(self.outgoing_allowed_hosts)

    def notary(self) -> Notary:
        """Return what signs and verifies checkpoints of the audit trail.

        Without `audit_keys` the key lies in `data_dir`, made on the first call: enough for one process on one machine.
        Processes that share a database must share the setting.
        """
        keys = [key.get_secret_value() for key in self.audit_keys]
        return Notary(keys or [kept_key(self.data_dir / "audit.key")])
