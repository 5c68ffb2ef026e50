"""A first configuration: keys and one operator, written where the settings are read from."""

from __future__ import annotations

import json
import secrets
from pathlib import Path

from cryptography.fernet import Fernet

from reclaim.common.security import new_seed
from reclaim.web.operators import hash_password


def generate(operator: str, password: str) -> dict[str, str]:
    """Return the settings of a new installation as environment variables."""
    return {
        "RECLAIM_SECRET_KEYS": json.dumps([secrets.token_urlsafe(32)]),
        "RECLAIM_SEALING_KEYS": json.dumps([Fernet.generate_key().decode()]),
        "RECLAIM_AUDIT_KEYS": json.dumps([new_seed()]),
        "RECLAIM_OPERATORS": json.dumps({operator: f"admin:{hash_password(password)}"}),
    }


def write(path: Path, values: dict[str, str]) -> None:
    """Write an environment file that only its owner can read.

    Raises:
        FileExistsError: there is one; it is never overwritten, because its keys open what is stored.
    """
    lines = "".join(f"{name}='{value}'\n" for name, value in values.items())
    path.touch(mode=0o600, exist_ok=False)
    path.write_text(lines)
