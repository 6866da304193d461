"""One seed, many independent named streams."""

from __future__ import annotations

import hashlib

import torch


def derive_seed(seed: int, *names: str | int, bits: int = 63) -> int:
    """A seed of ``bits`` bits for the stream named by ``names``.

    SHA-256 of seed and names: streams with different names do not overlap, the same on every
    machine and version. Environments take 31 bits (the ALE's seeds are signed 32-bit).
    """
    key = (int(seed), *(name if isinstance(name, str) else int(name) for name in names))
    digest = hashlib.sha256(repr(key).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> (64 - bits)


def generator(seed: int, *names: str | int, device: torch.device | str = "cpu") -> torch.Generator:
    """A torch generator on ``device`` for the stream named by ``names``."""
    return torch.Generator(device).manual_seed(derive_seed(seed, *names))
