"""How fast, how lean: `python -m benchmarks` prints one table of ratios against yardsticks of the same run."""
