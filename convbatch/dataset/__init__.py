"""Datasets: formats, schema, validation, selection."""
