"""Training progress on disk, so that an interrupted run goes on and ends as if it never stopped."""

import json
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from safetensors.torch import save as to_safetensors
from torch import Tensor, nn
from transformers import PreTrainedModel

from concept_das.data.encoding import EditName, EncodedQuadruple
from concept_das.errors import InputError
from concept_das.methods import TrainedMethod
from concept_das.models.blocks import Site
from concept_das.models.identity import ModelIdentity, same_weights
from concept_das.runs.files import fingerprint_of, write_atomically

RunIdentity = dict[str, Any]

log = logging.getLogger(__name__)


@dataclass
class Progress:
    """Everything that changes during training; saved after each epoch.

    Attributes:
        seconds: spent on this concept up to the latest epoch's end, over all parts of a training
            that was interrupted.
    """

    start: list[Tensor]
    best: list[Tensor]
    epoch: int = 0
    step: int = 0
    best_epoch: int = 0
    best_loss: float = math.inf
    history: list[dict[str, float]] = field(default_factory=list)
    seconds: float = 0.0


def run_identity(
    model: PreTrainedModel,
    sites: Sequence[Site],
    rows: Sequence[EncodedQuadruple],
    heldout: Sequence[EncodedQuadruple],
    options: Mapping[str, Any],
    method: TrainedMethod,
    built: Sequence[Mapping[EditName, nn.Module]],
) -> RunIdentity:
    """Everything that must be the same for saved progress to belong to this run.

    Args:
        method: the method itself, as another may be registered under its name.
        built: its new interventions at every site, whose buffers are part of them.
    """
    turns = [
        [turn for pair in (row.elicit, row.suppress) for turn in (pair.base, pair.source)]
        for row in (*rows, *heldout)
    ]
    prompts = [[(t.prompt.prefix_length, t.prompt.source_position) for t in row] for row in turns]
    return {
        **options,
        "layers": [site.layer for site in sites],
        "method_layers": list(options.get("layers", ())),  # those of LoRA are no sites
        "data": fingerprint_of([len(rows), [[turn.ids for turn in row] for row in turns]]),
        "prompts": fingerprint_of(prompts),
        "model": ModelIdentity.of(model).fingerprint,
        "method_settings": fingerprint_of(_settings_of(method)),
        "buffers": fingerprint_of(
            [
                [edit, name, buffer.tolist()]
                for at_site in built
                for edit, one in at_site.items()
                for name, buffer in one.named_buffers()
            ]
        ),
    }


# What progress of earlier releases does not have.
_LATER = ("method_layers", "prompts", "method_settings", "buffers")

# Of `Progress`, those that are no tensors.
_NUMBERS = ("epoch", "step", "best_epoch", "best_loss", "history", "seconds")

# Of a method, for people only.
_WORDS = ("summary", "steering", "package", "install")


def _settings_of(method: TrainedMethod) -> dict[str, Any]:
    """The class of a method and its plain values, such as the positions it edits."""
    named = {name: getattr(method, name) for name in dir(method) if name[0] != "_"}
    plain = {
        name: value
        for name, value in named.items()
        if isinstance(value, str | int | float | tuple) and name not in _WORDS
    }
    return {"class": type(method).__qualname__, **plain}


def save(
    folder: Path,
    state: Progress,
    parameters: Sequence[Tensor],
    optimizer: torch.optim.Optimizer,
    run: RunIdentity,
) -> None:
    """Write progress as one safetensors file, the numbers in its header."""
    tensors: dict[str, Tensor] = {}
    for i, parameter in enumerate(parameters):
        moments = optimizer.state[parameter]
        tensors |= {
            f"parameter.{i}": parameter,
            f"start.{i}": state.start[i],
            f"best.{i}": state.best[i],
            f"exp_avg.{i}": moments["exp_avg"],
            f"exp_avg_sq.{i}": moments["exp_avg_sq"],
            f"adam_step.{i}": moments["step"],
        }
    numbers = {"run": run, **{name: getattr(state, name) for name in _NUMBERS}}
    blob = to_safetensors(
        {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()},
        metadata={"progress": json.dumps(numbers)},
    )
    write_atomically(folder / "progress.safetensors", blob)


def resume(
    folder: Path,
    state: Progress,
    parameters: Sequence[Tensor],
    optimizer: torch.optim.Optimizer,
    run: RunIdentity,
) -> None:
    """Continue from saved progress, if there is any of this run.

    Raises:
        InputError: if the file is damaged, or is of another run.
    """
    path = folder / "progress.safetensors"
    if not path.exists():
        return
    # Earlier releases did not keep the seconds.
    numbers: dict[str, Any] = {"seconds": 0.0, **_numbers(path)}
    if same_weights(numbers["run"].get("model", ""), run["model"]):
        numbers["run"]["model"] = run["model"]  # earlier releases wrote another fingerprint
    saved = {**{name: run[name] for name in _LATER}, **numbers["run"]}
    if saved != run:
        changed = sorted(name for name in {*run, *saved} if saved.get(name) != run.get(name))
        raise InputError(
            f"{folder} holds progress of another run ({', '.join(changed)} differ); delete it or "
            "choose another folder"
        )
    tensors = load_file(path, device=str(parameters[0].device))
    for i, parameter in enumerate(parameters):
        with torch.no_grad():
            parameter.copy_(tensors[f"parameter.{i}"])
        optimizer.state[parameter] = {
            "exp_avg": tensors[f"exp_avg.{i}"],
            "exp_avg_sq": tensors[f"exp_avg_sq.{i}"],
            "step": tensors[f"adam_step.{i}"].cpu(),
        }
        state.start[i], state.best[i] = tensors[f"start.{i}"], tensors[f"best.{i}"]
    for name in _NUMBERS:
        setattr(state, name, numbers[name])
    log.info("going on after epoch %d from %s", state.epoch, path)


def _numbers(path: Path) -> dict[str, Any]:
    try:
        with safe_open(path, framework="pt") as file:
            numbers: dict[str, Any] = json.loads(file.metadata()["progress"])
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path} is damaged; delete it to start again") from error
    return numbers
