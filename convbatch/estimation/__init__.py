"""Estimates of calls, tokens, cost and time before a run."""
