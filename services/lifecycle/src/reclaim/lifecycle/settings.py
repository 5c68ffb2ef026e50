"""Settings of the lifecycle service; environment variables with the prefix `RECLAIM_LIFECYCLE_`."""

from __future__ import annotations

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from reclaim.lifecycle.brakes import Limits


class LifecycleSettings(BaseSettings):
    """`personal_days` is how long the IP address and user agent of a decision are kept.

    The `brake_` settings are the limits of a connection for which nobody has set others (see `brakes.Limits`).

    A checkpoint of the audit trail is signed after `checkpoint_entries` entries, and a day after the one before.
    """

    model_config = SettingsConfigDict(env_prefix="RECLAIM_LIFECYCLE_", env_file=".env", extra="ignore")

    personal_days: int = Field(default=180, ge=1, le=3650)
    checkpoint_entries: int = Field(default=1000, ge=1, le=1_000_000)
    brake_run_most: int = Field(default=25, ge=0)
    brake_run_share: int = Field(default=5, ge=1, le=100)
    brake_day_most: int = Field(default=25, ge=0)
    brake_day_share: int = Field(default=5, ge=1, le=100)
    brake_month_most: int = Field(default=100, ge=0)
    brake_month_share: int = Field(default=15, ge=1, le=100)
    brake_canary: int = Field(default=5, ge=0)

    def limits(self) -> Limits:
        """Return the limits of a connection for which nobody has set others."""
        return Limits(
            self.brake_run_most,
            self.brake_run_share,
            self.brake_day_most,
            self.brake_day_share,
            self.brake_month_most,
            self.brake_month_share,
            self.brake_canary,
        )
