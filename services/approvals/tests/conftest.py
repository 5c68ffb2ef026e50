"""Fixtures of the stage's tests; what they are made of is in `approvals_world`."""

from services.approvals.tests.approvals_world import database_url, start, world

__all__ = ["database_url", "start", "world"]
