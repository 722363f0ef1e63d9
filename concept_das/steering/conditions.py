"""Conditions: steer a row only where its prompt is of a kind.

The idea is CAST's (conditional activation steering, arXiv 2409.05907): a second vector, the
condition vector, is compared with the prompt's hidden states, once, and decides whether the row is
steered. CAST compares by the cosine between the mean hidden state and its projection on the
condition vector; here it is the coordinate along the vector, as everywhere in this package.
"""

import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from transformers import PreTrainedModel

from concept_das.data.batches import Batch
from concept_das.data.chat_format import Prompt, Turn
from concept_das.errors import InputError
from concept_das.models.blocks import find_site, hidden_of
from concept_das.models.loading import LoadedModel, model_of
from concept_das.models.logits import hidden_states_of
from concept_das.runs.files import sha256_of, without_nan, write_atomically
from concept_das.steering.hub import DESCRIPTION_FILE
from concept_das.steering.positions import _per_row, _PositionSelection
from concept_das.steering.vector import SteeringVector
from interventions import coordinates

CONDITION_FILE = "condition.json"

Over = Literal["mean", "max", "last"]
"""The tokens of the prompt, template prefix aside, that a coordinate is taken over."""


@dataclass(frozen=True)
class Condition:
    """True for the prompts whose coordinate along a vector is on one side of a threshold.

        steer(model, pirate.at(1.5, when=condition))

    Attributes:
        vector: a single direction at a single block.
        threshold: in the units of its coordinate.
        above: the condition holds above the threshold; below it if false.
        over: the coordinate is the mean or the largest over the prompt's tokens, or the last
            token's.
        metrics: how well it tells prompts apart; see `find_condition`.
    """

    vector: SteeringVector
    threshold: float
    above: bool = True
    over: Over = "mean"
    metrics: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse what has no coordinate.

        Raises:
            InputError: if the vector has several blocks or directions, or `over` is unknown.
        """
        if len(self.vector.sites) > 1 or self.vector.rank > 1:
            raise InputError(
                "a condition needs one direction at one block; find_condition chooses them from a "
                "vector with more"
            )
        if self.over not in get_args(Over):
            raise InputError(f"unknown tokens {self.over!r}; choose {', '.join(get_args(Over))}")

    def read(
        self, hidden: Float[Tensor, "rows width dim"], tokens: Bool[Tensor, "rows width"]
    ) -> Float[Tensor, "rows"]:
        """The coordinate of each row.

        Args:
            hidden: hidden states of the vector's block.
            tokens: true at the prompt's tokens behind the template prefix.
        """
        weight = self.vector.weight.to(hidden.device)
        return summarised(coordinates(hidden, weight), tokens, self.over)[:, 0]

    def met(self, values: Float[Tensor, "rows"]) -> Bool[Tensor, "rows"]:
        """True where a coordinate is on the condition's side of the threshold."""
        return values > self.threshold if self.above else values < self.threshold

    @torch.no_grad()
    def values(
        self,
        model: PreTrainedModel | LoadedModel,
        prompts: Sequence[Prompt],
        batch_size: int = 16,
    ) -> list[float]:
        """The coordinate of each prompt in the untouched model; higher blocks are not run.

        Raises:
            VectorMismatchError: if the vector belongs to another model.
        """
        inner = model_of(model)
        self.vector.check_model(inner)
        found: list[float] = []
        sites, rows = [self.vector.site(inner)], [Turn(prompt) for prompt in prompts]
        for batch, (hidden,) in hidden_states_of(inner, sites, rows, batch_size):
            found += self.read(hidden, own_tokens(batch).to(hidden.device)).tolist()
        return found

    def holds(
        self,
        model: PreTrainedModel | LoadedModel,
        prompts: Sequence[Prompt],
        batch_size: int = 16,
    ) -> list[bool]:
        """True for each prompt that it holds for; see `values`."""
        return self.met(torch.tensor(self.values(model, prompts, batch_size))).tolist()

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Write the vector's two files and `condition.json` into a folder."""
        target = self.vector.save(folder)
        content = {
            "format": "concept-das condition",
            **{name: getattr(self, name) for name in _SAVED},
            "metrics": without_nan(self.metrics),
            "vector_sha256": sha256_of(target / DESCRIPTION_FILE),
        }
        write_atomically(target / CONDITION_FILE, json.dumps(content, indent=2).encode())
        return target


_SAVED = [f.name for f in fields(Condition) if f.name not in ("vector", "metrics")]


def load_condition(
    folder: str | os.PathLike[str], model: PreTrainedModel | LoadedModel | None = None
) -> Condition:
    """Read a saved condition, and check that it belongs to the model if one is given.

    Raises:
        InputError: if a file is missing or was changed.
        VectorMismatchError: if the vector belongs to another model.
    """
    path = Path(folder) / CONDITION_FILE
    if not path.exists():
        raise InputError(f"{folder} holds no {CONDITION_FILE}; give the folder of a condition")
    vector = SteeringVector.load(folder, model)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        sha256, metrics = content["vector_sha256"], content["metrics"]
        parts = {name: content[name] for name in _SAVED}
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} cannot be read as a condition; save it again") from error
    if sha256 != sha256_of(path.parent / DESCRIPTION_FILE):
        raise InputError(f"{path} belongs to another vector; save the condition again")
    return Condition(vector, metrics=metrics, **parts)


def own_tokens(batch: Batch) -> Bool[Tensor, "rows width"]:
    """True at the tokens behind the template prefix of prompts that are padded on the right."""
    at = torch.arange(batch.input_ids.shape[1], device=batch.input_ids.device)
    start = at.new_tensor([row.prompt.prefix_length for row in batch.rows])
    return (at >= start.unsqueeze(1)) & batch.attention_mask.bool()


def summarised(
    values: Float[Tensor, "rows width dim"], tokens: Bool[Tensor, "rows width"], over: Over
) -> Float[Tensor, "rows dim"]:
    """The mean, the largest or the last of each row's values at its marked tokens."""
    marked = tokens.unsqueeze(-1)
    if over == "max":
        return values.masked_fill(~marked, -torch.inf).amax(dim=1)
    if over == "last":
        at = torch.arange(values.shape[1], device=values.device)
        last = torch.where(tokens, at, -1).amax(dim=1).clamp(min=0)
        return values[torch.arange(len(values), device=values.device), last]
    # Padding may hold anything, NaN included.
    return torch.where(marked, values, 0).sum(dim=1) / marked.sum(dim=1).clamp(min=1)


Hook = Callable[[nn.Module, Any, Any], None]


class Gates:
    """The rows of a batch that meet each condition: read off each prompt's pass, and kept after it.

    The passes of generated tokens follow the one of the prompt and change nothing.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        conditions: Iterable[Condition],
        selection: _PositionSelection,
    ) -> None:
        self.model, self.selection = model, selection
        self.conditions = list({id(condition): condition for condition in conditions}.values())
        self.met: dict[int, Bool[Tensor, rows]] = {}

    def hooks(self) -> list[tuple[nn.Module, Hook]]:
        """A forward hook for the block of each condition, to run before any that edits."""
        return [
            (
                find_site(self.model, condition.vector.layer).module(self.model),
                self._hook(condition),
            )
            for condition in self.conditions
        ]

    def _hook(self, condition: Condition) -> Hook:
        @torch.no_grad()
        def decide(_module: nn.Module, _args: Any, output: Any) -> None:
            hidden = hidden_of(output)
            tokens = self.selection.prompt_tokens(hidden)
            if tokens is not None:
                self.met[id(condition)] = condition.met(condition.read(hidden, tokens))

        return decide

    def open(
        self, conditions: Sequence[Condition | None], mask: Bool[Tensor, "rows width"]
    ) -> Bool[Tensor, "rows width"]:
        """A mask without the rows whose condition is not met.

        Args:
            conditions: of each row, or one for all; None lets a row through.
        """
        for condition in self.conditions:
            its = torch.tensor([one is condition for one in conditions])
            if its.any():
                gated = _per_row(its, len(mask)).to(mask.device)
                # Not there only where no prompt has been read, which is refused.
                met = self.met.get(id(condition))
                if met is None or len(met) != len(mask):
                    raise InputError(
                        "a condition is read off the prompt's first token to its last, and this "
                        "pass continues one that was not steered; start with the whole prompt"
                    )
                mask = mask & (met.to(mask.device) | ~gated).unsqueeze(1)
        return mask
