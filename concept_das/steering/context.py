"""Steer any Hugging Face forward or generate call inside a `with` block.

    with steer(model, vector, direction="elicit", multiplier=1.5):
        ids = model.generate(**inputs, max_new_tokens=100)

`vector` is the artifact of any method (`load_vector`). The edit is a forward hook on its block, or
on the modules that an adapter adapts. It works with the KV cache on or off, on left- or
right-padded batches, with streaming, sampling and several returned sequences, and it is gone when
the block is left, also after an exception. Do not run a pyvene call inside the block: pyvene
removes every forward hook of the model.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeGuard

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from transformers import PreTrainedModel

from concept_das.data.chat_format import Prompt
from concept_das.errors import InputError
from concept_das.models.blocks import Site, find_site, hidden_of, replace_hidden
from concept_das.models.loading import LoadedModel
from concept_das.steering.artifact import Artifact, ModuleEdit
from concept_das.steering.positions import (
    EVERYWHERE,
    Span,
    _per_row,
    _PositionSelection,
    parse_positions,
)
from concept_das.steering.vector import SteeringVector
from concept_das.words import Direction, Rule
from interventions import set_coordinates


@dataclass(frozen=True)
class Steering:
    """A vector or other artifact to steer with, and its strength.

    Attributes:
        vector: the artifact that a method made.
        multiplier, rule: see `SteeringVector.target`; a learned edit and an adapter are scaled by
            the multiplier.
        factor: `[rank]` coordinates to use instead of a vector's measured factor.
    """

    vector: Artifact
    direction: Direction = "elicit"
    multiplier: float = 1.0
    rule: Rule = "paper"
    factor: Tensor | None = None

    def __post_init__(self) -> None:
        """Refuse strengths that mean nothing.

        Raises:
            InputError: if the multiplier is no finite number, or stands beside a factor.
        """
        if not isinstance(self.multiplier, (int, float)) or not math.isfinite(self.multiplier):
            raise InputError(f"multiplier is {self.multiplier!r}; give a finite number")
        if self.factor is not None and self.multiplier != 1.0:
            raise InputError("factor and multiplier are both given; scale the factor itself")

    def target(self, index: int = 0) -> Float[Tensor, "rank"]:
        """The coordinates that a vector is to clamp to, or the amounts to add, at one of its sites.

        Raises:
            InputError: on an unknown direction or rule; if `factor` has another rank, or is given
                for a vector with several sites.
        """
        assert isinstance(self.vector, SteeringVector)
        if self.factor is not None:
            rank = self.vector.weight.shape[0]
            if self.factor.numel() != rank:
                raise InputError(f"factor has shape {tuple(self.factor.shape)}; expected ({rank},)")
            return self.factor.float().reshape(rank)
        return self.vector.targets(self.direction, self.multiplier, self.rule)[index]

    def edits(self, model: PreTrainedModel) -> dict[Site, "RowEdit"]:
        """The edit that a vector makes to a row at each of its sites."""
        assert isinstance(self.vector, SteeringVector)
        clamps = self.vector.operation == "clamp"
        return {
            find_site(model, at.layer): RowEdit(
                at.weight, self.target(index), clamps, self.vector.span
            )
            for index, at in enumerate(self.vector.sites)
        }

    def prompt(self, prompt: Prompt) -> Prompt:
        """The prompt to give to the model: another one if this steers with text."""
        return self.vector.prompt(prompt, self.direction)

    def check(self) -> None:
        """Make sure that it can be applied.

        Raises:
            InputError: on an unknown rule, a direction it cannot steer in, a factor of other rank.
        """
        self.vector.check_direction(self.direction)
        if isinstance(self.vector, SteeringVector):
            self.target()
        elif self.factor is not None or self.rule != "paper":
            raise InputError(
                f"{self.vector.method} has no factors; give a multiplier only, and rule paper"
            )


@contextmanager
def steer(
    model: PreTrainedModel | LoadedModel,
    vector: Artifact | Steering | Sequence[Artifact | Steering | None],
    *,
    direction: Direction = "elicit",
    multiplier: float = 1.0,
    rule: Rule = "paper",
    positions: str = "all",
    prefix_length: int | None = None,
    prompt_lengths: Sequence[int] | None = None,
    allow_other_weights: bool = False,
) -> Iterator[None]:
    """Apply a vector, or one per batch row, to every forward pass inside the block.

    Args:
        model: the model the vector belongs to.
        vector: one vector for all rows; or one entry per row of the batch, None to leave a row
            alone. A call that returns several sequences per prompt repeats the entries.
        direction, multiplier, rule: strength of bare vectors; see `SteeringVector.target`.
        positions: `all` steers the prompt (after the template prefix) and every new token, as the
            paper does; `prompt` only the prompt; `generated` only what comes after it; `p2+s2` the
            first two and the last two tokens of the prompt. A vector that was trained at fewer
            positions is applied at those of them that it was trained at.
        prefix_length: number of leading tokens of each row to protect; by default the vector's own,
            the template prefix it was trained with.
        prompt_lengths: tokens of each row's prompt, padding not counted; needed for positions
            other than `all`, the vector's own included, when the model is called directly and not
            through `generate`.
        allow_other_weights: steer another fine-tune of the vector's model too, with a warning; see
            `Artifact.check_model`.

    Raises:
        VectorMismatchError: if a vector belongs to another model.
        InputError: on unknown modes, rows that do not fit the batch, or what steers with text.
    """
    model = _model_of(model)
    given = (direction, multiplier, rule)
    entries = [vector] if isinstance(vector, (Artifact, Steering)) else list(vector)
    rows = [Steering(row, *given) if isinstance(row, Artifact) else row for row in entries]
    if given != ("elicit", 1.0, "paper") and not any(isinstance(e, Artifact) for e in entries):
        raise InputError(
            "direction, multiplier and rule are of bare vectors; put them into each Steering"
        )
    check_steering(model, rows, positions, allow_other_weights)
    for row in rows:
        if row is not None and row.vector.is_text:
            raise InputError(
                "a steering prompt is put into the text and not into the model; call "
                "generate_responses, or give the model what Steering.prompt returns"
            )
    prefixes = [
        0 if row is None else row.vector.prefix_length if prefix_length is None else prefix_length
        for row in rows
    ]
    on_modules = _module_edits(model, rows)
    spans = [edit.span for edit, _ in on_modules]
    vectors = [row.vector for row in rows if row is not None]
    spans += [vector.span for vector in vectors if isinstance(vector, SteeringVector)]
    selection = _PositionSelection(
        positions,
        prefixes,
        prompt_lengths,
        needs_ends=any(span != EVERYWHERE for span in spans),
    )
    with ExitStack() as stack:
        # A compiled forward was made without the hooks, and would not be steered.
        stack.enter_context(_uncompiled())
        stack.enter_context(selection.watching(model))
        edits: Counter[nn.Module] = Counter()
        for module, hook in [
            *_vector_hooks(model, rows, selection),
            *((model.get_submodule(e.module), _hook_of(e, r, selection)) for e, r in on_modules),
        ]:
            edits[module] = 0
            stack.callback(module.register_forward_hook(hook).remove)
            stack.callback(module.register_forward_hook(partial(_count, edits)).remove)
        yield
        if edits and min(edits.values()) < selection.passes:
            raise InputError(
                f"the model ran {selection.passes} times and was steered {min(edits.values())} "
                "times; do not compile, quantise or wrap the model's blocks inside the block"
            )


def _count(edits: "Counter[nn.Module]", module: nn.Module, *_: Any) -> None:
    edits[module] += 1


def _uncompiled() -> AbstractContextManager[Any]:
    """Run what `torch.compile` made as plain Python inside the block.

    Torch before 2.6 cannot, so there a compiled model must not be steered.
    """
    set_stance = getattr(torch.compiler, "set_stance", None)
    return nullcontext() if set_stance is None else set_stance("force_eager")


def _model_of(model: Any) -> PreTrainedModel:
    """The model itself; a `LoadedModel`'s if that is given.

    Raises:
        InputError: if it is neither.
    """
    if isinstance(model, LoadedModel):
        return model.model
    if not isinstance(model, nn.Module):
        raise InputError(
            f"a {type(model).__name__} was given for a model; load it first (load_model)"
        )
    return model


def check_steering(
    model: PreTrainedModel,
    rows: Sequence[Steering | None],
    positions: str,
    allow_other_weights: bool = False,
) -> None:
    """Make sure, before any work, that rows can be steered.

    Raises:
        VectorMismatchError: if a vector belongs to another model.
        InputError: on unknown positions, directions or rules.
    """
    parse_positions(positions)
    used = [row for row in rows if row is not None]
    # Describing the model takes longer than all the rest, and many vectors are of one model.
    for row in {row.vector.model.fingerprint: row for row in used}.values():
        row.vector.check_model(model, allow_other_weights=allow_other_weights)
    for row in used:
        row.check()


Hook = Callable[[nn.Module, Any, Any], Any]


def _vector_hooks(
    model: PreTrainedModel, rows: Sequence[Steering | None], selection: "_PositionSelection"
) -> list[tuple[nn.Module, Hook]]:
    """One hook for each site that vectors act at, for all of its rows."""
    sites: dict[Site, list[RowEdit | None]] = {}
    for i, row in enumerate(rows):
        if _is_vector(row):
            for site, edit in row.edits(model).items():
                sites.setdefault(site, [None] * len(rows))[i] = edit
    return [
        (site.module(model), SiteEdit(at_site, site).hook(selection))
        for site, at_site in sites.items()
    ]


def _is_vector(row: Steering | None) -> TypeGuard[Steering]:
    return row is not None and isinstance(row.vector, SteeringVector)


def _module_edits(
    model: PreTrainedModel, rows: Sequence[Steering | None]
) -> list[tuple[ModuleEdit, Bool[Tensor, "rows"]]]:
    """The edits of learned edits and adapters, each with the rows that it is for."""
    chosen: dict[tuple[int, Direction, float], tuple[Steering, Bool[Tensor, rows]]] = {}
    for i, row in enumerate(rows):
        if row is not None and not _is_vector(row):
            key = (id(row.vector), row.direction, row.multiplier)
            _, members = chosen.setdefault(key, (row, torch.zeros(len(rows), dtype=torch.bool)))
            members[i] = True
    return [
        (edit, members)
        for row, members in chosen.values()
        for edit in row.vector.edits(model, row.direction, row.multiplier)
    ]


def _hook_of(
    edit: ModuleEdit, members: Bool[Tensor, "rows"], selection: "_PositionSelection"
) -> Hook:
    """A forward hook that edits a module's output for some rows."""

    def apply(_module: nn.Module, args: Any, output: Any) -> Any:
        hidden = hidden_of(output)
        mask = selection.mask_for(hidden, [edit.span], edit.protects_prefix)
        if mask is None:
            return None
        mask = mask & _per_row(members, len(hidden)).to(mask.device).reshape(-1, 1)
        edited = edit.change(args[0] if args else hidden, hidden)
        return replace_hidden(output, torch.where(mask.unsqueeze(-1), edited, hidden))

    return apply


@dataclass(frozen=True)
class RowEdit:
    """The edit that a vector makes to one row at one site.

    Attributes:
        weight: the directions.
        target: the coordinates to clamp to, or the amounts to add.
        clamps: true if it clamps, false if it adds.
        span: the tokens that are edited.
    """

    weight: Float[Tensor, "rank dim"]
    target: Float[Tensor, "rank"]
    clamps: bool
    span: Span = EVERYWHERE


class SiteEdit:
    """The edits that vectors make to the rows of a batch at one site; None leaves a row alone."""

    def __init__(self, rows: Sequence[RowEdit | None], site: Site) -> None:
        rank = max(len(row.target) for row in rows if row is not None)
        self.weight = torch.zeros(len(rows), rank, site.width)
        self.target = torch.zeros(len(rows), 1, rank)
        self.clamps = torch.zeros(len(rows), 1, 1, dtype=torch.bool)
        self.spans = [EVERYWHERE if row is None else row.span for row in rows]
        self.only_clamps = all(row.clamps for row in rows if row is not None)
        for i, row in enumerate(rows):
            if row is not None:
                self.weight[i, : len(row.target)] = row.weight
                self.target[i, 0, : len(row.target)] = row.target
                self.clamps[i] = row.clamps

    def hook(self, selection: "_PositionSelection") -> Hook:
        """A forward hook for the site's block."""

        def apply(_module: nn.Module, _args: Any, output: Any) -> Any:
            hidden = hidden_of(output)
            mask = selection.mask_for(hidden, self.spans)
            if mask is None:
                return None
            steered = self.apply(hidden)
            return replace_hidden(output, torch.where(mask.unsqueeze(-1), steered, hidden))

        return apply

    def apply(self, hidden: Float[Tensor, "batch positions dim"]) -> Tensor:
        """Steer every position."""
        if self.weight.device != hidden.device:
            self.weight = self.weight.to(hidden.device)
            self.target = self.target.to(hidden.device)
            self.clamps = self.clamps.to(hidden.device)
        batch = hidden.shape[0]
        weight, target = _per_row(self.weight, batch), _per_row(self.target, batch)
        clamped = set_coordinates(hidden, weight, target)
        if self.only_clamps:
            return clamped
        added = (hidden.float() + target @ weight).to(hidden.dtype)
        return torch.where(_per_row(self.clamps, batch), clamped, added)
