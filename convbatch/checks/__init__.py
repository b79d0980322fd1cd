"""Checks: the built-in kinds, and the questions for a judge model."""
