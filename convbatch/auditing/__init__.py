"""Audit of targets that claim one model: questions, their statistics, verdicts and output."""
