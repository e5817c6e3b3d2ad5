"""Where random numbers come from: one generator per purpose, each a function of a seed and a name alone."""

import hashlib

import torch

FIXED = 0
"""The seed of everything that every run of a study has to share: validation, test and probe batches."""


def generator(name: str, seed: int, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator on ``device``. Streams of different names or seeds have nothing to do with each other.

    The same stream differs between CPU and CUDA, so what has to be the same everywhere is drawn on the CPU.
    """
    digest = hashlib.sha256(f"{name}:{seed}".encode()).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(digest[:7]))
