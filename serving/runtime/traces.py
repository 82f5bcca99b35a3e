"""OpenTelemetry traces (extra `otel`): a span for each request, with what was decided and never a prompt."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from opentelemetry import trace as traces
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Span

from serving.decide.decision import Decision

_NAME = "outcome-router"
# What holds a query string, by both of OpenTelemetry's conventions, and what stands there instead; "": the path.
_WITH_QUERY = {"http.url": "", "http.target": "", "url.full": "", "url.query": "-"}


def trace(app: FastAPI) -> None:
    """Has every request of the app make a span, exported by OTLP to where OTEL_EXPORTER_OTLP_ENDPOINT says.

    A tracer provider that is set already, as `opentelemetry-instrument` does, is left as it is.
    """
    if not isinstance(traces.get_tracer_provider(), TracerProvider):
        provider = TracerProvider(resource=_resource())
        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        traces.set_tracer_provider(provider)
    FastAPIInstrumentor.instrument_app(
        app,
        excluded_urls="healthz,readyz,metrics",
        exclude_spans=["receive", "send"],
        server_request_hook=_without_query,
    )


def annotate(identifier: str, decision: Decision) -> None:
    """Adds a decision to the current span."""
    span = traces.get_current_span()
    if span.is_recording():
        span.set_attribute("router.decision_id", identifier)
        span.set_attribute("router.candidate", decision.label)
        span.set_attribute("router.reason", decision.reason.value)
        span.set_attribute("router.bundle", decision.bundle)


def _without_query(span: Span, scope: dict[str, Any]) -> None:
    """Takes the query string out of a span: a client may have put a prompt there."""
    if not span.is_recording() or not scope.get("query_string"):
        return
    path = scope.get("path", "")
    for name, value in _WITH_QUERY.items():
        if name in getattr(span, "attributes", {}):
            span.set_attribute(name, value or path)


def _resource() -> Resource:
    """What OTEL_RESOURCE_ATTRIBUTES and OTEL_SERVICE_NAME say, and this product's name where they say none."""
    found = Resource.create()
    if str(found.attributes.get(SERVICE_NAME, "")).startswith("unknown_service"):
        return found.merge(Resource({SERVICE_NAME: _NAME}))
    return found
