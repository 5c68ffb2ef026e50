"""Identifiers: UUID version 7, so that they sort by the time they were made."""

from uuid_utils import uuid7


def new_id() -> str:
    """Return a fresh identifier, 36 characters."""
    return str(uuid7())
