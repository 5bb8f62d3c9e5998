"""Derive the seeds of independent random streams."""

import hashlib


def derive_seed(seed: int, *stream: str | int) -> int:
    """Return a 63-bit seed for a named stream, so that a new use of random numbers changes no other stream.

    >>> derive_seed(0, "initialisation") == derive_seed(0, "batch order", 0)
    False
    """
    name = "/".join(map(repr, (seed, *stream)))
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little") >> 1
