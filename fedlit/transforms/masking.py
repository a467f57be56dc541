"""What a member does so that only the sum of updates can be known. Bonawitz et al., CCS 2017.

Against a server that is curious but keeps to the protocol: signatures and the consistency check, which the paper adds
against one that does not, are left out.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from typing import NamedTuple

import numpy as np
import torch
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from torch import Tensor

from fedlit.errors import ClientFailed
from fedlit.transforms.shamir import SHARE_BYTES, join, split

KEY_BYTES = 32
NONCE_BYTES, TAG_BYTES = 12, 16
PUBLIC_BYTES = 2 * KEY_BYTES
SEALED_BYTES = NONCE_BYTES + 2 * SHARE_BYTES + TAG_BYTES
CHUNK = 1 << 20  # elements of a mask at once


class PublicKeys(NamedTuple):
    """With `sealing` others seal shares for a member, with `masking` they agree with it on masks."""

    sealing: bytes
    masking: bytes


class Shares(NamedTuple):
    """One member's shares of another's secrets: of its private masking key, and of the seed of its own mask."""

    masking: bytes
    seed: bytes


class Revealed(NamedTuple):
    """What a member tells in the end: shares of the keys of those that are missing, of the seeds of all others."""

    masking: Mapping[str, bytes]
    seeds: Mapping[str, bytes]


class Member:
    """A member in one round. Its secrets leave it as shares only, sealed for one other member each.

    Args:
        context: of the round, the same for all members; keys agreed upon in one are of no use in another.
    """

    def __init__(self, name: str, threshold: int, context: str):
        self.name, self.threshold, self.context = name, threshold, context
        self._sealing, self._masking = X25519PrivateKey.generate(), X25519PrivateKey.generate()
        self._seed = os.urandom(KEY_BYTES)
        self._keys: Mapping[str, PublicKeys] = {}
        self._shares: dict[str, Shares] = {}
        self._has_revealed = False

    def public_keys(self) -> PublicKeys:
        return PublicKeys(self._sealing.public_key().public_bytes_raw(), self._masking.public_key().public_bytes_raw())

    def seal(self, keys: Mapping[str, PublicKeys]) -> dict[str, bytes]:
        """A share of the two secrets for every other member, which nobody else can read; `keys` are those of all."""
        self._keys = keys
        names = sorted(keys)
        parts = (
            split(secret, len(names), self.threshold) for secret in (self._masking.private_bytes_raw(), self._seed)
        )
        sealed = {}
        for name, of_key, of_seed in zip(names, *parts, strict=True):
            if name == self.name:
                self._shares[name] = Shares(of_key, of_seed)
                continue
            nonce = os.urandom(NONCE_BYTES)
            box = ChaCha20Poly1305(self._agreed(self._sealing, keys[name].sealing, "seal"))
            sealed[name] = nonce + box.encrypt(nonce, of_key + of_seed, self._label(self.name, name))
        return sealed

    def open(self, sealed: Mapping[str, bytes]) -> None:
        """Keep the shares that others have sealed for this member, by their names."""
        for name, content in sealed.items():
            box = ChaCha20Poly1305(self._agreed(self._sealing, self._keys[name].sealing, "seal"))
            plain = box.decrypt(content[:NONCE_BYTES], content[NONCE_BYTES:], self._label(name, self.name))
            self._shares[name] = Shares(plain[:SHARE_BYTES], plain[SHARE_BYTES:])

    def mask(self, values: Tensor) -> Tensor:
        """int64 values plus this member's masks modulo 2^64: its own, and one with every other, which the other takes
        away."""
        masked = values.clone()
        add_mask(masked, self._seed, 1)
        for name, keys in self._keys.items():
            if name != self.name:
                add_mask(masked, self._agreed(self._masking, keys.masking, "mask"), sign(self.name, name))
        return masked

    def reveal(self, present: Collection[str]) -> Revealed:
        """What the server needs to take the masks off the sum over those that are present, asked once.

        Raises:
            ClientFailed: they are fewer than the threshold: nothing is told.
        """
        if len(present) < self.threshold:
            raise ClientFailed(
                f"{len(present)} of {len(self._keys)} members have sent an update, fewer than the threshold of "
                f"{self.threshold}: what they have sent stays masked"
            )
        assert not self._has_revealed, "shares of both secrets of a member would unmask it"
        self._has_revealed = True
        absent = self._keys.keys() - set(present)
        return Revealed(
            {name: self._shares[name].masking for name in sorted(absent)},
            {name: self._shares[name].seed for name in sorted(present)},
        )

    def _agreed(self, private: X25519PrivateKey, public: bytes, purpose: str) -> bytes:
        return agreed(private, public, f"{self.context}/{purpose}")

    def _label(self, sender: str, receiver: str) -> bytes:
        return f"{self.context}/{sender}/{receiver}".encode()


def agreed(private: X25519PrivateKey, public: bytes, purpose: str) -> bytes:
    """The key that the owners of two key pairs have in common for a purpose."""
    secret = private.exchange(X25519PublicKey.from_public_bytes(public))
    return HKDF(hashes.SHA256(), KEY_BYTES, salt=None, info=f"fedlit/{purpose}".encode()).derive(secret)


def sign(name: str, other: str) -> int:
    """With which sign a member counts the mask that it has in common with another."""
    return 1 if name < other else -1


def add_mask(total: Tensor, key: bytes, factor: int) -> None:
    """Add the mask of a key, or take it away, in place and modulo 2^64; every key makes one mask (AES in CTR mode)."""
    stream = Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor()
    for start in range(0, total.numel(), CHUNK):
        part = total[start : start + CHUNK]
        numbers = np.frombuffer(stream.update(bytes(8 * part.numel())), dtype=np.int64).copy()
        part.add_(torch.from_numpy(numbers), alpha=factor)


def unmask(
    total: Tensor,
    keys: Mapping[str, PublicKeys],
    present: Collection[str],
    revealed: Mapping[str, Revealed],
    threshold: int,
    context: str,
) -> None:
    """What the server does, in place: take all masks off the sum over those that have sent something.

    Args:
        total: int64, modulo 2^64.
        keys: of all members of the round.
        present: those that have sent something.
        revealed: by those of them that were still there to tell.

    Raises:
        ClientFailed: these are fewer than the threshold; nothing is taken off.
    """
    if len(revealed) < threshold:
        raise ClientFailed(
            f"{len(revealed)} of {len(keys)} members have told their shares, fewer than the threshold of {threshold}: "
            "what was sent stays masked"
        )
    for name in sorted(present):
        add_mask(total, _joined(name, keys, {teller: told.seeds for teller, told in revealed.items()}, threshold), -1)
    for name in sorted(keys.keys() - set(present)):
        secret = _joined(name, keys, {teller: told.masking for teller, told in revealed.items()}, threshold)
        private = X25519PrivateKey.from_private_bytes(secret)
        for other in sorted(present):  # has counted the mask that the missing one has not taken away
            add_mask(total, agreed(private, keys[other].masking, f"{context}/mask"), -sign(other, name))


def _joined(
    name: str, keys: Mapping[str, PublicKeys], shares: Mapping[str, Mapping[str, bytes]], threshold: int
) -> bytes:
    """A secret of a member, of the shares that others have told."""
    places = {teller: place for place, teller in enumerate(sorted(keys), start=1)}
    return join({places[teller]: shares[teller][name] for teller in sorted(shares)[:threshold]}, KEY_BYTES)
