"""Datasets: formats, schema, validation, selection, and the copy that a run keeps."""
