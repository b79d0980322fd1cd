"""The table of wire formats: name → protocol."""
