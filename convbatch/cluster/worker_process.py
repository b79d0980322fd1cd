"""How the process of a worker is set up, beyond what Ray does."""

from __future__ import annotations

import gc


def prepare() -> None:
    """Run the cyclic collector less often, as a session does: almost nothing of a turn is in cycles."""
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)
