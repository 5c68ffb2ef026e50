"""What every test may ask for: a real RabbitMQ and a real PostgreSQL, and a clean corner of each.

The servers start before the first test that asks for one, once for the session and for all workers of pytest-xdist,
and stop at its end; a session of tests that need none starts none. Where they come from: `tests/support/providers.py`.
"""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import create_async_engine

from reclaim.common import migrate
from reclaim.web.auth import undeclared_routes
from tests.support import servers
from tests.support.compiled import sharing
from tests.support.declared import OncePerTable
from tests.support.migrated import Templates
from tests.support.providers import ServersUnavailable
from tests.support.servers import SESSION_VARIABLE, Servers, Session, Topology

OWNER_VARIABLE = "RECLAIM_TEST_OWNER"

# As in a service that has started (`reclaim.common.host.settle_collector`): at Python's own threshold a fifth of the
# tests' time went into searching for cycles.
gc.set_threshold(50_000, 10, 10)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> object | None:
    """Share histories out by themselves, and everything else a file at a time."""
    if config.getvalue("dist") != "loadfile":
        return None
    from tests.support.sharing import FilesAndHistories  # here, so that tests run without xdist too

    return FilesAndHistories(config, log)


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):
        Session.open()
        os.environ[OWNER_VARIABLE] = str(os.getpid())


def pytest_unconfigure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput") and SESSION_VARIABLE in os.environ:
        Session.join().close()


def pytest_collection_finish(session: pytest.Session) -> None:
    """Start the servers now if a test will ask for them: its time limit is not for installing a broker."""
    gc.freeze()
    if any("_servers" in getattr(item, "fixturenames", ()) for item in session.items):
        first = not Session.join().started
        if first:
            _say(session.config, "test servers: starting RabbitMQ and PostgreSQL")
        try:
            found = _session_servers()
        except ServersUnavailable:
            return  # each test that needs them fails with the reason; the others run
        if first:
            _say(session.config, f"test servers: {found.describe()}")


def _session_servers() -> Servers:
    return Session.join().servers(int(os.environ[OWNER_VARIABLE]))


def _say(config: pytest.Config, text: str) -> None:
    capture = config.pluginmanager.getplugin("capturemanager")
    if capture is None:
        print(text, file=sys.stderr, flush=True)
        return
    with capture.global_and_fixture_disabled():
        print(text, file=sys.stderr, flush=True)


@pytest.fixture(scope="session", autouse=True)
def _migrated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Templates]:
    """Migrate a new database by copying one that was migrated before."""
    templates = Templates(migrate.upgrade, tmp_path_factory.mktemp("migrated"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(migrate, "upgrade", templates.upgrade)
        yield templates
    templates.drop()


@pytest.fixture(scope="session", autouse=True)
def _compiled() -> Iterator[None]:
    """Compile each statement once, not once for each test's engine."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("reclaim.common.db.create_async_engine", sharing(create_async_engine))
        yield


@pytest.fixture(scope="session", autouse=True)
def _declared() -> Iterator[None]:
    """Look once at each service's routes whether all of them say who may use them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("reclaim.web.host.undeclared_routes", OncePerTable(undeclared_routes))
        yield


@pytest.fixture(scope="session")
def _servers() -> Servers:
    try:
        return _session_servers()
    except ServersUnavailable as unavailable:
        reason = str(unavailable)
    pytest.fail(reason, pytrace=False)


@pytest.fixture(scope="session")
def amqp_url(_servers: Servers) -> str:
    """The URL of a real RabbitMQ that every test shares."""
    return _servers.broker.amqp_url


@pytest.fixture(scope="session")
def postgres_url(_servers: Servers) -> str:
    """The SQLAlchemy URL of a real PostgreSQL's administrator, who may create databases and roles."""
    return _servers.database.url


@pytest.fixture
def fresh_database(_servers: Servers, _migrated: Templates) -> Iterator[str]:
    """The SQLAlchemy URL of an empty PostgreSQL database that only this test has."""
    with _migrated.fresh_database(_servers.database) as url:
        yield url


@pytest.fixture
def fresh_vhost(_servers: Servers) -> Iterator[Topology]:
    """`(url, prefix)`: a RabbitMQ virtual host that only this test has, and a prefix for names that no other has."""
    with servers.fresh_topology(_servers.broker) as topology:
        yield topology
