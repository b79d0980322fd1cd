"""Pseudo-random draws that depend only on what they are about, so that every run of a simulation is the same."""

from __future__ import annotations

import hashlib
import math


def digest(*fields: object) -> bytes:
    """Return eight bytes that depend only on `fields`."""
    return hashlib.blake2b("\x1f".join(map(str, fields)).encode("utf-8", "replace"), digest_size=8).digest()


def draw(*fields: object) -> float:
    """Return a pseudo-random number in [0, 1) that depends only on `fields`."""
    return int.from_bytes(digest(*fields)) / 2**64


def normal(*fields: object) -> float:
    """Return a pseudo-random number of the standard normal distribution that depends only on `fields`."""
    size = math.sqrt(-2 * math.log(1 - draw(*fields)))
    return size * math.cos(2 * math.pi * draw("angle", *fields))
