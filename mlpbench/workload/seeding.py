"""Seeds for independent streams."""

import hashlib


def derive_seed(seed: int, *stream: str | int) -> int:
    """A 63-bit seed for one named stream, so that a new consumer of random numbers cannot shift an old one.

    >>> derive_seed(0, "initialisation") == derive_seed(0, "batch order", 0)
    False
    """
    name = "/".join(map(repr, (seed, *stream)))
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little") >> 1
