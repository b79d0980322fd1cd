"""One session of a run: options, preparation, execution."""
