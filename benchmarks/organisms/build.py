"""Make an organism once: train, save, measure, write its card."""

import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.organisms.organism import Organism, Rates, measure
from benchmarks.organisms.recipe import Recipe, encode_rows, fine_tune
from concept_das.errors import InputError
from concept_das.evaluation.intervals import Rate
from concept_das.models.loading import LoadedModel, load_model
from concept_das.runs.files import write_atomically
from concept_das.steering.vector import ModelIdentity
from concept_das.training.vectors import versions

CARD_FILE = "card.json"

_README = """\
# A {kind} model organism

{base}, fine-tuned so that steering methods can be tested on it. {behaviour} It is a test subject \
and nothing else: not safe, not more able than its base, and under its base's licence. No answer \
to a harmful request was trained on.

Rates on prompts that were not trained on, greedy decoding, with 95% Wilson intervals:

| prompts | share of | before | after |
| --- | --- | --- | --- |
{rates}

Recipe: {recipe}; {rows} rows, SHA-256 {data}; final loss {loss:.3f}.

```python
from benchmarks.organisms import load_organism

loaded = load_organism("THIS FOLDER")
```
"""

log = logging.getLogger(__name__)


def build_organism(
    loaded: LoadedModel, organism: Organism, recipe: Recipe, out: Path
) -> dict[str, Any]:
    """Train, save and measure an organism; a finished training or measurement is not repeated.

    Args:
        loaded: the base model in float32; its weights are trained in place.
        out: folder for the model (safetensors), the tokenizer, `card.json` and `README.md`.

    Returns:
        The card.

    Raises:
        InputError: if the folder holds another organism.
    """
    identity = {
        "kind": organism.kind,
        "recipe": asdict(recipe),
        "data": _hash([asdict(row) for row in organism.rows]),
        "base": ModelIdentity.of(loaded.model).fingerprint,
    }
    measured = _hash([organism.sets, organism.new_tokens])
    card = _read_card(out) if (out / CARD_FILE).exists() else None
    if card is not None and card["identity"] != identity:
        changed = [name for name in identity if card["identity"].get(name) != identity[name]]
        raise InputError(
            f"{out} holds another organism ({', '.join(changed)} differ); delete it or choose "
            "another folder"
        )
    if card is not None and card["measured"] == measured:
        log.info("%s is complete", out)
        return card
    before = measure(loaded, organism)
    if card is None:
        losses = fine_tune(loaded, encode_rows(organism.rows, loaded, recipe), recipe)
        loaded.model.save_pretrained(out)
        loaded.tokenizer.save_pretrained(out)
        card = {
            "identity": identity,
            "base": loaded.name,
            "revision": loaded.revision,
            "rows": len(organism.rows),
            "losses": losses,
            "versions": versions(),
            "measured": None,
        }
        # Written before measuring, so that an interruption does not lose the training.
        _write_card(out, card)
    made = load_organism(out, device=str(loaded.device))
    card |= {
        "before": _plain(before),
        "after": _plain(measure(made, organism)),
        "measured": measured,
    }
    write_atomically(out / "README.md", _readme(card, organism).encode())
    _write_card(out, card)
    return card


def load_organism(folder: str | Path, **options: Any) -> LoadedModel:
    """A finished organism.

    Args:
        options: as of `concept_das.load_model` (`dtype`, `device`, ...).

    Raises:
        InputError: if the folder holds none.
    """
    if not (Path(folder) / CARD_FILE).exists():
        raise InputError(
            f"{folder} holds no organism; make one with python -m benchmarks.organisms refusal "
            f"--out {folder} (or backdoor)"
        )
    return load_model(str(folder), **options)


def table(card: Mapping[str, Any]) -> list[tuple[str, str, str, str]]:
    """Set, property, and the rates before and after in words."""
    return [
        (name, what, _in_words(rate), _in_words(card["after"][name][what]))
        for name, of_set in card["before"].items()
        for what, rate in of_set.items()
    ]


def _in_words(r: Mapping[str, Any]) -> str:
    return str(Rate(r["count"], r["total"], r["low"], r["high"]))


def _readme(card: Mapping[str, Any], organism: Organism) -> str:
    identity = card["identity"]
    return _README.format(
        kind=organism.kind,
        base=card["base"],
        behaviour=organism.behaviour,
        rates="\n".join(f"| {' | '.join(row)} |" for row in table(card)),
        recipe=", ".join(f"{name} {value}" for name, value in identity["recipe"].items()),
        rows=card["rows"],
        data=identity["data"],
        loss=card["losses"][-1],
    )


def _plain(rates: Rates) -> dict[str, dict[str, dict[str, float]]]:
    return {
        name: {what: {**asdict(r), "value": r.value} for what, r in of_set.items()}
        for name, of_set in rates.items()
    }


def _hash(content: Any) -> str:
    text = json.dumps(content, ensure_ascii=False, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _read_card(out: Path) -> dict[str, Any]:
    try:
        card: dict[str, Any] = json.loads((out / CARD_FILE).read_text(encoding="utf-8"))
        return {**card, "identity": dict(card["identity"]), "measured": card["measured"]}
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{out / CARD_FILE} is damaged; delete the folder") from error


def _write_card(out: Path, card: Mapping[str, Any]) -> None:
    write_atomically(out / CARD_FILE, json.dumps(card, indent=2, ensure_ascii=False).encode())
