"""OpenTelemetry: GenAI spans and evaluations in OTLP JSON."""
