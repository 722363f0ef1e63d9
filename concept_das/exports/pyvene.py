"""Steering vectors as pyvene interventions, in memory and in pyvene's own saved format.

pyvene saves a folder: `config.json` (the site and the class of each intervention) and one
`intkey_*.bin` per intervention (its tensors, pickled by torch). Only tensors are read from it here,
never objects.
"""

import json
import os
import pickle
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from pyvene.models.intervenable_modelcard import type_to_dimension_mapping
from torch import Tensor
from transformers import PreTrainedModel

from concept_das.errors import InputError
from concept_das.models.blocks import find_site
from concept_das.steering.vector import DirectionAtSite, ModelIdentity, Rule, SteeringVector
from concept_das.words import Direction
from interventions import (
    AdditiveIntervention,
    ClampIntervention,
    DistributedInterchangeIntervention,
)
from interventions.backend import pyvene as pv

# The intervention of each operation; it is built from directions and a target.
_STEERING = {"clamp": ClampIntervention, "add": AdditiveIntervention}

_READABLE = {str(kind): kind for kind in (*_STEERING.values(), DistributedInterchangeIntervention)}


def to_pyvene(
    vector: SteeringVector,
    model: PreTrainedModel,
    direction: Direction,
    multiplier: float = 1.0,
    rule: Rule = "paper",
) -> pv.IntervenableModel:
    """The model with a `ClampIntervention` or an `AdditiveIntervention` at each of its sites.

    The same as `steer(model, vector, ...)` if a mask protects the template prefix and the padding::

        steered = to_pyvene(vector, model, "elicit")
        tokens = inputs["attention_mask"]
        mask = (tokens.cumsum(dim=1) > vector.prefix_length) & tokens.bool()
        _, ids = steered.generate(
            inputs, unit_locations=None, intervene_on_prompt=True,
            intervention_additional_kwargs={"position_mask": mask}, max_new_tokens=100,
        )

    pyvene freezes the model's parameters, and removes every forward hook of the model when a call
    ends.

    Args:
        vector: of any rank, at one or several blocks.
        model: the model it belongs to, of any architecture.
        direction, multiplier, rule: see `SteeringVector.target`.

    Raises:
        InputError: if the vector edits some positions only.
        VectorMismatchError: if the vector belongs to another model.
    """
    vector.check_model(model)
    vector.require_every_position("pyvene")
    representations = []
    for at, target in zip(vector.sites, vector.targets(direction, multiplier, rule), strict=True):
        site = find_site(model, at.layer)
        intervention = _STEERING[vector.operation](weight=at.weight, factor=target)
        intervention.to(next(site.module(model).parameters()).device)
        representations.append({"component": site.component, "intervention": intervention})
    return pv.IntervenableModel(representations, model)


def save_pyvene(
    vector: SteeringVector,
    model: PreTrainedModel,
    folder: str | os.PathLike[str],
    direction: Direction,
    multiplier: float = 1.0,
    rule: Rule = "paper",
) -> Path:
    """Write a folder that `pv.IntervenableModel.load(folder, model)` reads.

    The folder holds the directions and one target. Factors, prefix length and the model's identity
    have no place in it, so keep the vector's own folder too (`SteeringVector.save`).

    Raises:
        InputError: if pyvene cannot load on this architecture (0.1.8 looks the model up in its own
            table: Phi-3, Qwen3, Gemma-3 and OLMo-2 are not in it).
        VectorMismatchError: if the vector belongs to another model.
    """
    if type(model) not in type_to_dimension_mapping:
        raise InputError(
            f"pyvene cannot load a saved intervention on {type(model).__name__}: its table of "
            "architectures lacks it; share the folder of SteeringVector.save and call to_pyvene "
            "after loading"
        )
    to_pyvene(vector, model, direction, multiplier, rule).save(os.fspath(folder))
    return Path(folder)


def from_pyvene(
    folder: str | os.PathLike[str],
    model: PreTrainedModel,
    *,
    negative_factor: Float[Tensor, "rank"] | None = None,
    positive_factor: Float[Tensor, "rank"] | None = None,
    rows: Sequence[int] | None = None,
    prefix_length: int = 0,
) -> SteeringVector:
    """Read a folder that `pv.IntervenableModel.save` wrote, on every architecture.

    The folder must hold `DistributedInterchangeIntervention`s, `ClampIntervention`s or
    `AdditiveIntervention`s, all of one kind, each at the output of a decoder block of its own,
    addressed by string path or as `block_output`. It does not say which model it was trained on:
    the given one is taken at its word.

    Args:
        negative_factor, positive_factor: mean coordinates of neutral and of concept prompts; see
            `concept_das.steering.factors.measure_latents`. A training intervention has none,
            so give both. A clamp or an addition has one target, which stands for each factor that
            is not given. They are of one block: leave them out where there are several.
        rows: the rows of the weight that make up the vector, for an intervention with a
            `subspace_partition`; all of them if None.
        prefix_length: template tokens to leave alone; pyvene does not save it.

    Raises:
        InputError: if the folder holds anything else, does not fit the model, or factors are
            missing.
    """
    config = read_config(Path(folder))
    found = len(config["intervention_types"])
    if found != 1 and not (negative_factor is positive_factor is None):
        raise InputError(
            f"{folder} holds {found} interventions, and the factors given are of one; save each "
            "block alone, or leave the factors out"
        )
    kind = _kind_of(config, folder)
    sites = []
    for (layer, component, *_), key in zip(
        config["representations"], config["sorted_keys"], strict=True
    ):
        block = layer_of(model, layer, component)
        path = Path(folder) / f"intkey_{key}.bin"
        state = read_tensors(path)
        weight = _rows_of(state, "weight", rows, path)
        find_site(model, block).check_width(weight.shape[1], folder)
        if kind is not AdditiveIntervention:
            _check_orthonormal(weight, folder)
        negative, positive = negative_factor, positive_factor
        if kind in _STEERING.values():
            target = _rows_of(state, "factor", rows, path)
            negative = target if negative is None else negative
            positive = target if positive is None else positive
        if negative is None or positive is None:
            raise InputError(
                f"{folder} holds a training intervention, which has no factors; measure them with "
                "concept_das.steering.factors.measure_latents and pass negative_factor and "
                "positive_factor"
            )
        sites.append(DirectionAtSite(weight, negative, positive, block))
    return SteeringVector(
        sites=sites,
        operation="add" if kind is AdditiveIntervention else "clamp",
        model=ModelIdentity.of(model),
        prefix_length=prefix_length,
    )


def read_config(folder: Path) -> dict[str, Any]:
    """The `config.json` of a folder that pyvene wrote.

    Raises:
        InputError: if it is missing or not pyvene's.
    """
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(
            f"{folder} holds no config.json; give a folder that IntervenableModel.save wrote"
        ) from error
    except ValueError as error:
        raise InputError(f"{folder / 'config.json'} is not valid JSON: {error}") from error
    wanted = ("representations", "intervention_types", "sorted_keys")
    if not isinstance(config, dict) or any(not isinstance(config.get(k), list) for k in wanted):
        raise InputError(
            f"{folder / 'config.json'} is not pyvene's; give a folder that IntervenableModel.save "
            "wrote"
        )
    return config


def _kind_of(config: dict[str, Any], folder: str | os.PathLike[str]) -> type:
    names = config["intervention_types"]
    if len(set(names)) != 1:
        raise InputError(f"{folder} holds interventions of {len(set(names))} kinds; save one kind")
    name = names[0]
    if name not in _READABLE:
        known = " or a ".join(kind.__name__ for kind in _READABLE.values())
        raise InputError(f"{folder} holds a {name}; only a {known} can become a steering vector")
    return _READABLE[name]


def layer_of(model: PreTrainedModel, layer: int, component: str) -> int:
    """The decoder block whose output pyvene's address names.

    Raises:
        InputError: if it names anything else.
    """
    if component == "block_output":
        return find_site(model, layer).layer
    # pyvene takes `layers[1]` and `layers.1` alike.
    dotted = re.sub(r"\[(\d+)\]", r".\1", component)
    number = re.fullmatch(r".*\.(\d+)\.output", dotted)
    if number:
        site = find_site(model, int(number[1]))
        if dotted == f"{site.module_name}.output":
            return site.layer
    raise InputError(
        f"the intervention acts at {component}; a steering vector acts at the output of a decoder "
        f"block, in this model {find_site(model, 0).component} and so on"
    )


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of one saved intervention; objects are never loaded.

    Raises:
        InputError: if the file is missing or damaged.
    """
    if not path.exists():
        raise InputError(f"{path} is missing; save the intervention again")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise InputError(
            f"{path} is damaged or holds objects other than tensors, which are never loaded"
        ) from error
    return dict(state)


def _rows_of(
    state: dict[str, Tensor], name: str, rows: Sequence[int] | None, path: Path
) -> Float[Tensor, "rank *dim"]:
    if name not in state:
        raise InputError(f"{path} holds no {name}; save the intervention again")
    value = state[name].float()
    if rows is None:
        return value
    if any(not 0 <= row < len(value) for row in rows):
        raise InputError(f"rows {list(rows)} are out of range: {path} has 0 to {len(value) - 1}")
    return value[list(rows)]


def _check_orthonormal(weight: Float[Tensor, "rank dim"], folder: str | os.PathLike[str]) -> None:
    overlap = weight @ weight.T - torch.eye(weight.shape[0])
    if not float(overlap.abs().max()) < 1e-3:
        raise InputError(
            f"the directions in {folder} are not orthonormal; pass the rows of one concept, or "
            "retract() the intervention before it is saved"
        )
