"""Write the secrets of a container stack: `python deploy/make_env.py deploy/stack.env`.

Every value is random and made once; a file that exists is never touched. Values stand in single quotes, so that
no reader of the file expands the dollar signs of a password hash.
"""

from __future__ import annotations

import base64
import json
import os
import secrets
import sys
from pathlib import Path

from argon2 import PasswordHasher
from cryptography.fernet import Fernet

DATABASES = ("SCANNER", "APPROVALS", "ITSM_GATEWAY", "LIFECYCLE", "SAVINGS")


def stack_environment() -> str:
    """Return the file's text, with fresh secrets."""
    password = secrets.token_urlsafe(12)
    sections = {
        "Sign in to the console with these. The services know only the hash.": {
            "RECLAIM_STACK_OPERATOR": "admin",
            "RECLAIM_STACK_PASSWORD": password,
            "RECLAIM_OPERATORS": json.dumps({"admin": f"admin:{PasswordHasher().hash(password)}"}),
        },
        "Sign links and sessions; encrypt stored credentials. To rotate, put a new key in front of the list.": {
            "RECLAIM_SECRET_KEYS": json.dumps([secrets.token_urlsafe(32)]),
            "RECLAIM_SEALING_KEYS": json.dumps([Fernet.generate_key().decode()]),
        },
        "Sign the checkpoints of the audit trail (Ed25519 seeds). To rotate, put a new key in front of the list.": {
            "RECLAIM_AUDIT_KEYS": json.dumps([base64.urlsafe_b64encode(secrets.token_bytes(32)).decode()]),
        },
        "Of the broker and the databases; they take them over when their volumes are created, and not later.": {
            "RABBITMQ_PASSWORD": secrets.token_hex(16),
            "POSTGRES_PASSWORD": secrets.token_hex(16),
            **{f"RECLAIM_DATABASE_PASSWORD_{name}": secrets.token_hex(16) for name in DATABASES},
        },
    }
    lines = ["# Secrets of the container stack, made by deploy/make_env.py. Keep this file to yourself."]
    for comment, values in sections.items():
        lines += ["", f"# {comment}", *(f"{name}='{value}'" for name, value in values.items())]
    lines += [
        "",
        "# What you may want to set: where people reach the console, and your mail server.",
        "# RECLAIM_PUBLIC_URL='https://reclaim.example.com'",
        "# RECLAIM_APPROVALS_SMTP_URL='smtps://user:password@mail.example.com:465'",
    ]
    return "\n".join(lines) + "\n"


def main(path: Path) -> None:
    """Write the file, readable by its owner only.

    Raises:
        FileExistsError: the file is there already.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(stack_environment())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
