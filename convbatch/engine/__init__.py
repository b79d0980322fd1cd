"""Request scheduling and sending: plan, limits, retries, budget."""
