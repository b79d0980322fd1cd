"""Batch jobs, and responses that are made in the background."""
