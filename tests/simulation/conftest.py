"""The stage that a worker plays all its histories on."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.simulation.stage import Stage, quiet


@pytest.fixture(scope="session")
def stage() -> Iterator[Stage]:
    """Databases that are migrated once and engines that keep what they compiled."""
    with Stage() as stage:
        yield stage


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    with quiet():
        yield
