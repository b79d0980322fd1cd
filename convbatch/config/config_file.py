"""Where the configuration is found; `loader.py` reads it, and readers of run folders need no more than its name."""

CONFIG_NAME = "convbatch.toml"
"""In the working directory; `-c` names another file."""
