"""Comparison of two runs: pairing, statistics, verdict, output."""
