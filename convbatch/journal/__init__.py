"""The run folder and its journal: records, writer, index."""
