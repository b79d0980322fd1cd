"""A page on loopback that shows a run while it goes on, and its report once it has ended."""
