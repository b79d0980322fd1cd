"""Reports on usage and cost, usage logs."""
