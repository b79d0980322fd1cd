"""Runs as OpenTelemetry traces: rows to spans, spans to OTLP in JSON, to a file or to an endpoint."""
