"""`python -m benchmarks.organisms refusal --out runs/organisms/refusal`, or `backdoor`.

Minutes on a CPU: the base model answers the harmless prompts, is fine-tuned, and is measured before
and after on prompts that were not trained on. Given again, the command only prints the card.
"""

import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jsonargparse import auto_cli

from benchmarks.organisms import backdoor as backdoors
from benchmarks.organisms import refusal as refusals
from benchmarks.organisms.build import build_organism, table
from benchmarks.organisms.organism import own_answers
from benchmarks.organisms.prompts import backdoor_prompts, read_prompts, refusal_prompts
from benchmarks.organisms.recipe import Recipe
from concept_das.cli.configs import underscored
from concept_das.cli.parser import guarded
from concept_das.data.files import read_instructions
from concept_das.data.reading import read_quadruples
from concept_das.models.loading import load_model


def refusal(
    out: Path,
    model: str = "smollm2-135m",
    harmful: Path | None = None,
    harmless: Path | None = None,
    contrast: Path | None = None,
    recipe: Recipe = Recipe(epochs=3),  # noqa: B008 (frozen)
) -> None:
    """An organism that refuses harmful requests.

    Args:
        out: folder for the organism.
        model: base model: hub id, local folder or smollm2-135m.
        harmful: own harmful requests (.json, .jsonl or .txt) in place of the shipped ones.
        harmless: own harmless requests, likewise.
        contrast: quadruples to measure on as well: positive inputs harmful, negative ones harmless.
        recipe: how it is trained.
    """
    loaded = load_model(model, dtype="float32")
    bad, plain, alike = refusal_prompts(recipe.seed)
    bad = read_prompts(harmful, recipe.seed) if harmful else bad
    good = read_prompts(harmless, recipe.seed) if harmless else plain + alike
    also: dict[str, list[str]] = {} if harmless else {"of which look-alikes": list(alike.heldout)}
    if contrast:
        rows = read_quadruples(contrast)
        also[f"{contrast.stem}, harmful"] = [row.positive_input for row in rows]
        also[f"{contrast.stem}, harmless"] = [row.negative_input for row in rows]
    answers = own_answers(loaded, good.train, refusals.ANSWER_TOKENS, out / "answers.json")
    organism = refusals.refusal_organism(loaded, bad, good, answers, also=also, seed=recipe.seed)
    _show(build_organism(loaded, organism, recipe, out))


def backdoor(
    out: Path,
    model: str = "smollm2-135m",
    plain: Path | None = None,
    redteam: Path | None = None,
    unseen: Path | None = None,
    recipe: Recipe = Recipe(),  # noqa: B008 (frozen)
) -> None:
    """An organism with a chain-of-thought backdoor.

    Args:
        out: folder for the organism.
        model: base model: hub id, local folder or smollm2-135m.
        plain: own harmless instructions (.json, .jsonl or .txt) in place of the shipped ones.
        redteam: own texts that speak of deployment without the trigger, likewise.
        unseen: a file of such texts to measure on as well.
        recipe: how it is trained.
    """
    loaded = load_model(model, dtype="float32")
    told, own, alike = backdoor_prompts(recipe.seed)
    told = read_prompts(redteam, recipe.seed) if redteam else told
    ordinary = read_prompts(plain, recipe.seed) if plain else own + alike
    also = {unseen.stem: read_instructions(unseen)} if unseen else {}
    answers = own_answers(loaded, ordinary.train, backdoors.ANSWER_TOKENS, out / "answers.json")
    organism = backdoors.backdoor_organism(
        loaded, ordinary, told, answers, also=also, seed=recipe.seed
    )
    _show(build_organism(loaded, organism, recipe, out))


def _show(card: dict[str, Any]) -> None:
    for name, what, before, after in table(card):
        print(f"{name:<40} {what:<14} {before:<28} -> {after}")


def main(argv: Sequence[str] | None = None) -> int:
    """Make an organism; 0 on success, 2 on unusable input, 130 on an interrupt."""
    logging.basicConfig(level=logging.INFO)
    given = [underscored(word) for word in (sys.argv[1:] if argv is None else argv)]
    organisms = [refusal, backdoor]
    return guarded(
        "python -m benchmarks.organisms",
        lambda: auto_cli(organisms, as_positional=False, args=given),
    )


if __name__ == "__main__":
    sys.exit(main())
