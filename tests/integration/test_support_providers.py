"""Where no way to a server is open, the tests fail with a message that says what to do; they never skip."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack

import pytest

from tests.support import providers
from tests.support.providers import ServersUnavailable, provide_broker, provide_database


@pytest.fixture(autouse=True)
def _nothing_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(providers.AMQP_VARIABLE, raising=False)
    monkeypatch.delenv(providers.POSTGRES_VARIABLE, raising=False)
    monkeypatch.setenv(providers.WAYS_VARIABLE, "environment,local")
    monkeypatch.setattr(providers, "_executable", _not_installed)


def _not_installed(name: str, *_: object) -> str:
    raise providers.Unavailable(f"{name} is not installed")


@pytest.mark.parametrize(
    ("provide", "server", "variable", "binary"),
    [
        (provide_broker, "RabbitMQ", "RECLAIM_TEST_AMQP_URL", "rabbitmq-server"),
        (provide_database, "PostgreSQL", "RECLAIM_TEST_POSTGRES_URL", "initdb"),
    ],
)
def test_the_failure_names_each_closed_way_and_what_opens_one(
    provide: Callable[[ExitStack], object], server: str, variable: str, binary: str
) -> None:
    with ExitStack() as cleanup, pytest.raises(ServersUnavailable) as failure:
        provide(cleanup)
    text = str(failure.value)
    assert f"a real {server}" in text
    assert f"environment: {variable} is not set" in text
    assert f"local: {binary} is not installed" in text
    assert "apt-get install" in text


def test_a_way_that_does_not_exist_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(providers.WAYS_VARIABLE, "podman")
    with ExitStack() as cleanup, pytest.raises(ServersUnavailable, match="podman; it may list environment, containers"):
        provide_broker(cleanup)


def test_a_database_url_of_any_dialect_becomes_sqlalchemys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(providers.POSTGRES_VARIABLE, "postgres://u:p@db.example:5432/postgres")
    with ExitStack() as cleanup:
        assert provide_database(cleanup).url == "postgresql+asyncpg://u:p@db.example:5432/postgres"
