"""Turns asked in batch jobs: waves of requests, made into jobs, polled, and read back into turns."""
