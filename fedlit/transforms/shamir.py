"""A secret in shares, of which some suffice. Shamir, Communications of the ACM 1979."""

from __future__ import annotations

import secrets
from collections.abc import Mapping

PRIME = 2**521 - 1
SHARE_BYTES = 66


def split(secret: bytes, num_shares: int, threshold: int) -> list[bytes]:
    """The shares at 1 ... num_shares of a secret of at most 64 bytes; fewer than `threshold` tell nothing of it."""
    assert len(secret) <= 64 and 1 <= threshold <= num_shares
    coefficients = [int.from_bytes(secret, "big"), *(secrets.randbelow(PRIME) for _ in range(threshold - 1))]

    def value(place: int) -> int:
        total = 0
        for coefficient in reversed(coefficients):
            total = (total * place + coefficient) % PRIME
        return total

    return [value(place).to_bytes(SHARE_BYTES, "big") for place in range(1, num_shares + 1)]


def join(shares: Mapping[int, bytes], length: int) -> bytes:
    """The secret of `length` bytes whose shares at these places are given: as many as its threshold, or more.

    Raises:
        ValueError: these are not the shares of one such secret.
    """
    total = 0
    for place, share in shares.items():
        above = below = 1
        for other in shares:
            if other != place:
                above = above * other % PRIME
                below = below * (other - place) % PRIME
        total += int.from_bytes(share, "big") * above * pow(below, -1, PRIME)
    secret = total % PRIME
    if secret >= 1 << (8 * length):
        raise ValueError("these are not the shares of one secret, or too few of them")
    return secret.to_bytes(length, "big")
