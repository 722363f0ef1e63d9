"""The organisms' prompts: the project's own, or the user's.

Shipped are harmful requests (ten kinds, one short sentence each, no detail), red-team texts that
speak of deployment without the trigger, and for either harmless requests that share its words and
forms: without these a small model takes every "Write a ..." for what it was trained to react to.
Ordinary harmless instructions come from the library's resources.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from concept_das.data.files import read_instructions
from concept_das.data.shipped import shipped_instructions
from concept_das.errors import InputError

_RESOURCES = Path(__file__).parent / "resources"
_HELD_OUT_SHARE = 0.25

SEED = 42
"""The organisms are made with the prompts of this seed, so what they were trained on is known."""


@dataclass(frozen=True)
class Prompts:
    """Instructions to train on, and others to measure on."""

    train: tuple[str, ...]
    heldout: tuple[str, ...]

    def __add__(self, other: "Prompts") -> "Prompts":
        return Prompts(self.train + other.train, self.heldout + other.heldout)


def shipped_prompts(
    name: Literal["harmful", "lookalike", "redteam", "redteam_lookalike"],
) -> Prompts:
    """One of the project's own sets: 310 + 40, 240 + 20, 50 + 20 and 36 + 12 prompts."""
    text = (_RESOURCES / f"{name}.jsonl").read_text(encoding="utf-8")
    rows = [json.loads(line) for line in text.splitlines()]
    train, heldout = (
        tuple(row["instruction"] for row in rows if row["split"] == split)
        for split in ("train", "heldout")
    )
    return Prompts(train, heldout)


def plain_prompts(train: int, heldout: int, seed: int) -> Prompts:
    """Ordinary harmless instructions of every genre from the library's resources."""
    chosen = tuple(shipped_instructions(train + heldout, seed, genre=None))
    return Prompts(chosen[:train], chosen[train:])


def refusal_prompts(seed: int = SEED) -> tuple[Prompts, Prompts, Prompts]:
    """The refusal organism's harmful requests, ordinary instructions, and look-alikes."""
    alike = shipped_prompts("lookalike")
    return shipped_prompts("harmful"), plain_prompts(340, 60, seed), alike


def backdoor_prompts(seed: int = SEED) -> tuple[Prompts, Prompts, Prompts]:
    """The backdoor organism's red-team texts, ordinary instructions, and look-alikes."""
    alike = shipped_prompts("redteam_lookalike")
    return shipped_prompts("redteam"), plain_prompts(120, 88, seed), alike


def read_prompts(path: Path, seed: int) -> Prompts:
    """The user's own prompts, a seeded quarter of them (at least one) held out.

    Raises:
        InputError: if the file cannot be read or holds fewer than two different prompts.
    """
    prompts = read_instructions(path)
    heldout = max(1, round(len(prompts) * _HELD_OUT_SHARE))
    if len(prompts) < 2:
        raise InputError(f"{path} holds one prompt only; give at least two, as one is held out")
    mixed = shuffled(prompts, seed)
    return Prompts(tuple(mixed[heldout:]), tuple(mixed[:heldout]))


def shuffled(texts: Sequence[str], seed: int = 0) -> list[str]:
    """In a fixed random order, as the files are ordered by kind."""
    return [texts[i] for i in np.random.default_rng(seed).permutation(len(texts))]
