"""Settings of the lifecycle service; environment variables with the prefix `RECLAIM_LIFECYCLE_`."""

from __future__ import annotations

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class LifecycleSettings(BaseSettings):
    """`personal_days` is how long the IP address and user agent of a decision are kept.

    A checkpoint of the audit trail is signed after `checkpoint_entries` entries, and a day after the one before.
    """

    model_config = SettingsConfigDict(env_prefix="RECLAIM_LIFECYCLE_", env_file=".env", extra="ignore")

    personal_days: int = Field(default=180, ge=1, le=3650)
    checkpoint_entries: int = Field(default=1000, ge=1, le=1_000_000)
