"""Tables built from the journal, and their export."""
