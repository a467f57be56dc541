"""Randomness by address: a seed is computed from where it is used, never drawn from a stream."""

from __future__ import annotations

from hashlib import blake2b


def address(*parts: int | str) -> int:
    """The 63-bit seed of an address such as `(seed, site, round, epoch, "shuffle")`.

    Any of them can be computed alone, so any round can be replayed.
    """
    text = "/".join(str(part) for part in parts)
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "big") >> 1
