"""The tiny models and rows that the record is made on.

The weights are uniform random numbers, which come out the same bit by bit on every processor;
normal ones do not.
"""

import json
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from tests.tiny import tiny_model, tiny_tokenizer

_SPREAD = 0.7

_TEXTS = (
    ("Name a fruit", "An apple.", "Name a fruit, pirate", "Arr, an apple!"),
    ("Hi", "Hello, how are you?", "Hi, pirate", "Ahoy!"),
    ("What is a ship?", "A boat", "What is a ship, pirate?", "Me home, arr"),
    ("Sing", "La", "Sing, pirate", "Yo-ho-ho and a"),
    ("How far is it?", "Ten miles.", "How far is it, pirate?", "A league"),
    ("Count to three", "1, 2, 3", "Count to three, pirate", "One, arr, two"),
    ("Who are you?", "A model.", "Who are you, pirate?", "The captain"),
    ("Bye", "Goodbye.", "Bye, pirate", "Fair winds!"),
    ("Where is north?", "Up.", "Where is north, pirate?", "By the star"),
    ("Cook rice", "Boil it.", "Cook rice, pirate", "Rum first"),
)

PROMPTS = ("Hi there", "Name a fruit", "What is the sea?")


def golden_model(
    architecture: str = "llama", *, layers: int | None = None, seed: int = 0
) -> PreTrainedModel:
    """A tiny model in evaluation mode, with weights that depend on the seed alone."""
    model = tiny_model(architecture)
    if layers is not None:
        config = model.config
        config.num_hidden_layers = layers
        model = type(model)(config).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for _, parameter in sorted(model.named_parameters()):
            if parameter.dim() > 1:
                uniform = torch.rand(parameter.shape, generator=generator)
                parameter.copy_((2 * uniform - 1) * _SPREAD)
    return model


def write_model(folder: Path, architecture: str = "llama", **options: Any) -> Path:
    """The model and its tokenizer in a folder that `--model` takes."""
    golden_model(architecture, **options).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def rows(concept_id: int = 3, concept: str = "Pirate") -> list[dict[str, Any]]:
    """Ten quadruples of prompts and responses of different lengths."""
    names = ("negative_input", "negative_output", "positive_input", "positive_output")
    more = {"concept_id": concept_id, "concept": concept, "concept_genre": "text"}
    return [{**dict(zip(names, texts, strict=True)), **more} for texts in _TEXTS]


def write_rows(path: Path, records: list[dict[str, Any]]) -> Path:
    """Records as a .jsonl file."""
    path.write_text("".join(f"{json.dumps(record)}\n" for record in records), encoding="utf-8")
    return path
