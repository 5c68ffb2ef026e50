"""Logs, traces and metrics.

Logs are structured (JSON, or coloured on a terminal). Traces go to an OTLP endpoint if one is set and are made
either way, so that every log line has its trace id. Metrics are read by Prometheus at `/metrics`.
"""

from __future__ import annotations

import logging
import sys
from typing import Any, Final

import structlog
from opentelemetry import metrics, trace
from opentelemetry.context import Context
from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Span, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

from reclaim.common.settings import Settings

ADDRESSES: Final = ("url.path", "url.query", "url.full", "http.target", "http.url")
"""Span attributes, by their present and their earlier names, that hold what a client asked for."""


def _with_trace(_logger: object, _method: str, line: structlog.typing.EventDict) -> structlog.typing.EventDict:
    context = trace.get_current_span().get_span_context()
    if context.is_valid:
        line["trace_id"] = f"{context.trace_id:032x}"
    return line


def set_up_logging(settings: Settings) -> None:
    """Send everything, the standard library's loggers included, to standard error in one format."""
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _with_trace,
    ]
    if settings.log_format == "json":
        last: list[Any] = [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    else:
        # Its own tracebacks show the variables of every frame: secrets among them, and seconds of work for each.
        last = [
            structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback)
        ]
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(settings.log_level)
    # Their access lines hold whole URLs, and a URL may hold a signed token.
    for noisy in ("uvicorn.access", "httpx", "httpcore"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


class WithoutAddresses(SpanProcessor):
    """Takes the path and the query out of every span: a decision link's path is its key, a query names people.

    What is left, the route with the names of its parameters, says which page or endpoint it was.
    """

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:  # noqa: ARG002
        for name in ADDRESSES:
            if span.attributes and name in span.attributes:
                span.set_attribute(name, "REDACTED")


def set_up_telemetry(settings: Settings, process: str) -> None:
    """Install the providers of traces and metrics for this process; later calls change nothing."""
    if isinstance(trace.get_tracer_provider(), TracerProvider):
        return
    resource = Resource.create({"service.name": f"reclaim-{process}"})
    tracing = TracerProvider(resource=resource)
    tracing.add_span_processor(WithoutAddresses())
    if settings.otlp_endpoint:
        # Here, since most installations send traces nowhere, and it takes long to load.
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

        exporter = OTLPSpanExporter(endpoint=f"{settings.otlp_endpoint.rstrip('/')}/v1/traces")
        tracing.add_span_processor(BatchSpanProcessor(exporter))
    trace.set_tracer_provider(tracing)
    metrics.set_meter_provider(MeterProvider(resource=resource, metric_readers=[PrometheusMetricReader()]))
