"""Steering vectors for lm-evaluation-harness: the file that its `steered` model reads."""

import io
import os
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel

from concept_das.errors import InputError
from concept_das.models.blocks import find_site
from concept_das.runs.files import write_atomically
from concept_das.steering.vector import DirectionAtSite, Rule, SteeringVector
from concept_das.words import Direction


def to_lm_eval(
    vector: SteeringVector,
    model: PreTrainedModel,
    path: str | os.PathLike[str],
    direction: Direction,
    multiplier: float = 1.0,
    rule: Rule = "paper",
) -> Path:
    """Write a `.pt` file for `lm_eval --model steered`.

    For example::

        lm_eval --model steered --model_args pretrained=MODEL,steer_path=vector.pt --tasks mmlu

    lm-eval (0.4.13, lm_eval/models/hf_steered.py) adds `coefficient * v`, or sets
    `h + d (coefficient - d h)` with d = v / |v|, at every position of the named module's output, as
    `steer(model, vector, prefix_length=0)` does. So the template prefix, begin-of-text included, is
    steered too, which `steer` protects by default: expect other scores for a vector that was
    trained with a protected prefix. lm-eval computes in the model's precision, `steer` in float32.

    Args:
        vector: any vector that adds, or a clamp of rank 1, at one or several blocks.
        model: the model it belongs to; tells the module's name.
        direction, multiplier, rule: see `SteeringVector.target`.

    Raises:
        InputError: if a clamp has more than one direction (the file holds one per module) or one
            that is not of unit length (lm-eval normalises it), the vector edits some positions
            only, or the path does not end in .pt or .pth, by which lm-eval knows the format.
        VectorMismatchError: if the vector belongs to another model.
    """
    if Path(path).suffix not in (".pt", ".pth"):
        raise InputError(f"lm-eval reads .pt and .pth files only; rename {path}")
    vector.check_model(model)
    vector.require_every_position("lm-eval")
    targets = vector.targets(direction, multiplier, rule)
    entries = {
        _hookpoint(model, at.layer): _entry(vector, at, target)
        for at, target in zip(vector.sites, targets, strict=True)
    }
    blob = io.BytesIO()
    torch.save(entries, blob)
    write_atomically(Path(path), blob.getvalue())
    return Path(path)


def _entry(
    vector: SteeringVector, at: DirectionAtSite, target: Float[Tensor, "rank"]
) -> dict[str, Any]:
    """The action at one block, as lm-eval reads it."""
    weight = at.weight.detach().float().cpu()
    if vector.operation == "add":
        steering_vector, coefficient = target.float().cpu() @ weight, 1.0
    else:
        if at.rank > 1:
            raise InputError(
                f"lm-eval clamps one direction per module and this vector has {at.rank}; train "
                "it with rank 1, or evaluate inside concept_das.steer"
            )
        if abs(float(weight.norm()) - 1) > 1e-3:
            raise InputError(
                f"lm-eval clamps along unit directions and this one has length "
                f"{float(weight.norm()):.4g}; normalise it and measure its factors again"
            )
        steering_vector, coefficient = weight[0], float(target[0])
    return {
        "action": vector.operation,
        "steering_vector": steering_vector.clone(),
        "steering_coefficient": coefficient,
        "head_index": None,
        "bias": None,
    }


def _hookpoint(model: PreTrainedModel, layer: int) -> str:
    """The block's name as lm-eval looks it up: within the base model (`layers.15`)."""
    block = find_site(model, layer).module(model)
    return next(name for name, module in model.base_model.named_modules() if module is block)
