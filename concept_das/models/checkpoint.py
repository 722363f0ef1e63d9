"""Telling by its files whether a model has the weights that a vector was trained on.

For engines that load a model in their own way: merged, split over devices, or quantised.
"""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from transformers import AutoModelForCausalLM

from concept_das.models.identity import FIRST_ROWS, ModelIdentity, hash_of, weight_name
from concept_das.models.weights import weights_of


def identity_of_files(folder: Path, config: Any) -> ModelIdentity:
    """A saved model's identity, with the part of the fingerprint that needs few of its weights.

    Args:
        folder: a saved model, in safetensors.
        config: its configuration, as transformers reads it.

    Returns:
        Its identity. The fingerprint is empty if the files do not tell: where they are not there,
        or name the weights in another way than transformers' model does.
    """
    text = config.get_text_config()
    return ModelIdentity(
        name=str(folder),
        revision=None,
        architecture=(config.architectures or [type(config).__name__])[0],
        n_layers=text.num_hidden_layers,
        hidden_size=text.hidden_size,
        vocab_size=text.vocab_size,
        fingerprint=_fingerprint(folder, config),
    )


def _fingerprint(folder: Path, config: Any) -> str:
    try:
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config)
    except ValueError:  # a model of several modalities, or of own code
        return ""
    embedding = weight_name(model, "input")
    wanted = [
        name
        for name, weight in weights_of(model).items()
        if weight.shape.numel() > 1 and len(weight.shape) == 1
    ]
    try:
        files = _files_of(folder)
        if not {*wanted, embedding} <= files.keys():
            return ""
        vectors = {name: _read(files[name], name) for name in wanted}
        vectors["embedding"] = _read(files[embedding], embedding, FIRST_ROWS)
    except (OSError, ValueError, SafetensorError):
        return ""
    return f"2:{hash_of(vectors)}:"


def _files_of(folder: Path) -> dict[str, Path]:
    """The file of each weight."""
    index = folder / "model.safetensors.index.json"
    if index.exists():
        content = json.loads(index.read_text(encoding="utf-8"))
        return {name: folder / file for name, file in content["weight_map"].items()}
    with safe_open(folder / "model.safetensors", framework="pt") as file:
        return dict.fromkeys(file.keys(), folder / "model.safetensors")


def _read(path: Path, name: str, rows: int | None = None) -> Tensor:
    """A weight, or its first rows, flat and as bfloat16."""
    with safe_open(path, framework="pt") as file:
        values: Tensor = file.get_slice(name)[:rows]
    return values.reshape(-1).to(torch.bfloat16)
