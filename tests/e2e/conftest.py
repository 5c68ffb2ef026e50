"""A database for each service, on the one server."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from reclaim.common.contracts import SERVICES
from tests.support import servers
from tests.support.servers import Servers


@pytest.fixture
def databases(_servers: Servers) -> Iterator[dict[str, str]]:
    """Service → the URL of an empty PostgreSQL database of its own."""
    with ExitStack() as stack:
        yield {name: stack.enter_context(servers.fresh_database(_servers.database)) for name in SERVICES}
