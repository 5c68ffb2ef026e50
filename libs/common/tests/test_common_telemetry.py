"""What a log line shows of a defect: where it happened, and never the values it happened with."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
from cryptography.fernet import Fernet

from reclaim.common.settings import Settings
from reclaim.common.telemetry import set_up_logging


@pytest.fixture(autouse=True)
def _loggers_as_they_were() -> Iterator[None]:
    root = logging.getLogger()
    noisy = [logging.getLogger(name) for name in ("uvicorn.access", "httpx", "httpcore")]
    handlers, level, levels = root.handlers, root.level, [logger.level for logger in noisy]
    yield
    root.handlers = handlers
    root.setLevel(level)
    for logger, before in zip(noisy, levels, strict=True):
        logger.setLevel(before)


@pytest.mark.parametrize("log_format", ["console", "json"])
def test_a_traceback_names_the_line_and_not_the_variables(log_format, capsys):
    set_up_logging(
        Settings(secret_keys=["k" * 32], sealing_keys=[Fernet.generate_key().decode()], log_format=log_format)
    )
    client_secret = "-".join(["hunter", "two"])
    try:
        int(f"{len(client_secret)} characters")
    except ValueError:
        logging.getLogger("reclaim.trial").exception("it failed")
    said = capsys.readouterr().err
    assert "'10 characters'" in said
    assert "test_a_traceback_names_the_line_and_not_the_variables" in said
    assert client_secret not in said
