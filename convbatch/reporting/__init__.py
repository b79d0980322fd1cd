"""Reports on usage and cost, audits, usage logs."""
