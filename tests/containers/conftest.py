"""The stack that is running, for all tests of it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.containers.stack import Stack


@pytest.fixture(scope="session")
def stack() -> Iterator[Stack]:
    with Stack() as running:
        yield running
