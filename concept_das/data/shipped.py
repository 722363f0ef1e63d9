"""Instructions and unrelated texts that come with the package."""

import json
from importlib import resources
from typing import Any

import numpy as np

from concept_das.errors import InputError


def read_resource(name: str) -> list[dict[str, Any]]:
    """Rows of one of the package's `.jsonl` resources."""
    text = resources.files("concept_das").joinpath(f"resources/{name}.jsonl").read_text("utf-8")
    return [json.loads(line) for line in text.split("\n") if line]


def shipped_instructions(count: int, seed: int, genre: str | None = "text") -> list[str]:
    """A seeded selection of the instructions that come with the package.

    Args:
        genre: `text`, `code`, `math`, or None for all.

    Raises:
        InputError: if there are not so many.
    """
    rows = [r["instruction"] for r in read_resource("instructions") if genre in (None, r["genre"])]
    if not 1 <= count <= len(rows):
        raise InputError(
            f"{count} instructions were asked for; the package has {len(rows)} of genre "
            f"{genre or 'any'}; pass your own file for more"
        )
    order = np.random.default_rng(seed).permutation(len(rows))[:count]
    return [rows[i] for i in order]
