"""Fixtures of the stage's tests; what they are made of is in `approvals_world`."""

from services.approvals.tests.approvals_world import start, world

__all__ = ["start", "world"]
