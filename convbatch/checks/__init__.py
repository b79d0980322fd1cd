"""Kinds of checks, and the question an LLM judge is asked."""
