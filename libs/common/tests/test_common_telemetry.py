"""What logs and traces show: where something happened, and never the values it happened with."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import httpx
import pytest
from cryptography.fernet import Fernet
from fastapi import FastAPI
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from reclaim.common.settings import Settings
from reclaim.common.telemetry import WithoutAddresses, set_up_logging


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


async def test_a_span_names_the_route_and_not_the_address():
    spans = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(WithoutAddresses())
    provider.add_span_processor(SimpleSpanProcessor(spans))
    app = FastAPI(telemetry={"tracer_provider": provider})

    @app.get("/d/{token}")
    async def opened(token: str) -> int:
        return len(token)

    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://site") as client:
        await client.get("/d/the-key?holder=ada")
        await client.get("/nowhere/the-key")
    said = "".join(span.to_json() for span in spans.get_finished_spans())
    assert "/d/{token}" in said
    assert "the-key" not in said
    assert "ada" not in said
