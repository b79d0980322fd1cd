"""convbatch: replay scripted dialogues against language models, and compare what comes back."""

__version__ = "0.1.0"
