"""Fixtures of the gateway's tests; what they are made of is in `tests/support/itsm_gateway.py`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.itsm_gateway import NEW, OLD, Site, secrets_of, started


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.servers)])
async def site(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Site]:
    """A gateway on either database whose connection `desk` has two secrets in the settings."""
    url = None if request.param == "sqlite" else request.getfixturevalue("fresh_database")
    async with started(tmp_path, secrets_of(NEW, OLD), url) as running:
        yield running
