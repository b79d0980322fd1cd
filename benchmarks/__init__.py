"""Benchmarks of speed and memory: `python -m benchmarks` prints one table of ratios to baselines of the same run."""
