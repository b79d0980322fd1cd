"""Dataset formats: one module for each, with its row `FORMAT`; `registry.py` finds them."""
