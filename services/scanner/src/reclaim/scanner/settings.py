"""The scanner's own settings: environment variables with the prefix `RECLAIM_SCANNER_`."""

from __future__ import annotations

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class ScannerSettings(BaseSettings):
    """Times are in seconds of the wall clock.

    A scan whose process died is taken over `lease_seconds` later. A scan that meets an outage waits
    `first_wait_seconds`, doubling up to `longest_wait_seconds`, and gives up after `most_attempts` (a day, as it
    stands: the daily call limit of an org renews itself within that). A sign-in log is read every `sync_seconds`, and
    the products of a connection every `licences_seconds`. Merged cases are opened `merge_seconds` after the first of
    them was taken back, all of a rule in one reading. A file of usage may have `import_most_bytes`.
    """

    model_config = SettingsConfigDict(env_prefix="RECLAIM_SCANNER_", env_file=".env", extra="ignore")

    lease_seconds: float = Field(default=15, gt=0)
    first_wait_seconds: float = Field(default=2, gt=0)
    longest_wait_seconds: float = Field(default=900, gt=0)
    most_attempts: int = Field(default=110, gt=0)
    preview_seconds: float = Field(default=60, gt=0)
    sync_seconds: float = Field(default=3_600, gt=0)
    licences_seconds: float = Field(default=86_400, gt=0)
    merge_seconds: float = Field(default=30, ge=0)
    import_most_bytes: int = Field(default=512 * 1024 * 1024, gt=0)
