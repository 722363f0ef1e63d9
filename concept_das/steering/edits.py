"""The edits that steer a batch, as forward hooks of the modules that they change."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from transformers import PreTrainedModel

from concept_das.models.blocks import Site, hidden_of, replace_hidden
from concept_das.steering.conditions import Condition, Gates
from concept_das.steering.entries import RowEdit, Steering
from concept_das.steering.positions import EVERYWHERE, Span, _per_row, _PositionSelection
from concept_das.steering.vector import SteeringVector
from concept_das.words import Direction
from interventions import set_coordinates

Hook = Callable[[nn.Module, Any, Any], Any]

Rows = Sequence[Sequence[Steering]]
"""All that steers each row of a batch."""


@dataclass(frozen=True)
class MaskedEdit:
    """An edit of a module's output, in some rows of a batch and at some of their tokens.

    Attributes:
        change: (the module's input, its output) -> the output edited everywhere.
        members: true for these rows.
        spans: the tokens that are edited: one for all rows, or one for each.
        conditions: when they are: one for all rows, or one for each.
        protects_prefix: see `ModuleEdit`.
    """

    change: Callable[[Tensor, Tensor], Tensor]
    members: Bool[Tensor, "rows"]
    spans: Sequence[Span]
    conditions: Sequence[Condition | None]
    protects_prefix: bool = True


class BatchEdits:
    """All that is changed in a model to steer a batch.

    Attributes:
        spans: the tokens that the edits change.
    """

    def __init__(self, model: PreTrainedModel, rows: Rows) -> None:
        self.model = model
        self.edits = [*_site_edits(model, rows), *_module_edits(model, rows)]
        self.spans = {span for _, edit in self.edits for span in edit.spans}
        self.conditions = [part.when for row in rows for part in row if part.when is not None]

    def hooks(self, selection: _PositionSelection) -> list[tuple[nn.Module, Hook]]:
        """The hooks that read conditions, and one for each changed module, for all its edits."""
        gates = Gates(self.model, self.conditions, selection)
        of_module: dict[nn.Module, list[MaskedEdit]] = {}
        for module, edit in self.edits:
            of_module.setdefault(module, []).append(edit)
        edited = [(module, _hook(edits, selection, gates)) for module, edits in of_module.items()]
        # A condition is read before the edits at its own block.
        return [*gates.hooks(), *edited]


def _hook(edits: Sequence[MaskedEdit], selection: _PositionSelection, gates: Gates) -> Hook:
    """A forward hook that adds up changes, each computed from the output before any of them."""

    def apply(_module: nn.Module, args: Any, output: Any) -> Any:
        hidden = hidden_of(output)
        steered, changed = hidden, None
        for edit in edits:
            mask = selection.mask_for(hidden, edit.spans, edit.protects_prefix)
            if mask is None:
                continue
            mask = mask & _per_row(edit.members, len(hidden)).to(mask.device).reshape(-1, 1)
            mask = gates.open(edit.conditions, mask).unsqueeze(-1)
            edited = edit.change(args[0] if args else hidden, hidden)
            if changed is not None:
                both = (steered.float() + (edited.float() - hidden.float())).to(hidden.dtype)
                # What one edit alone changes is exactly that edit's.
                edited = torch.where(changed, both, edited)
            steered = torch.where(mask, edited, steered)
            changed = mask if changed is None else changed | mask
        return None if changed is None else replace_hidden(output, steered)

    return apply


def _site_edits(model: PreTrainedModel, rows: Rows) -> list[tuple[nn.Module, MaskedEdit]]:
    """The vectors' edits at each site, as few as there are vectors on one row."""
    sites: dict[Site, list[list[RowEdit | None]]] = {}
    for i, row in enumerate(rows):
        for part in row:
            if not isinstance(part.vector, SteeringVector):
                continue
            for site, edit in part.edits(model).items():
                at_site = sites.setdefault(site, [])
                free = [edits for edits in at_site if edits[i] is None]
                if not free:
                    free = [[None] * len(rows)]
                    at_site += free
                free[0][i] = edit
    return [
        (
            site.module(model),
            MaskedEdit(
                SiteEdit(edits, site).change,
                torch.tensor([edit is not None for edit in edits]),
                [EVERYWHERE if edit is None else edit.span for edit in edits],
                [None if edit is None else edit.when for edit in edits],
            ),
        )
        for site, at_site in sites.items()
        for edits in at_site
    ]


def _module_edits(model: PreTrainedModel, rows: Rows) -> list[tuple[nn.Module, MaskedEdit]]:
    """The edits of learned edits and adapters, each with the rows that it is for."""
    chosen: dict[tuple[int, Direction, float, int, int], tuple[Steering, Bool[Tensor, rows]]] = {}
    for i, row in enumerate(rows):
        for place, part in enumerate(row):
            if isinstance(part.vector, SteeringVector):
                continue
            key = (id(part.vector), part.direction, part.multiplier, id(part.when), place)
            _, members = chosen.setdefault(key, (part, torch.zeros(len(rows), dtype=torch.bool)))
            members[i] = True
    return [
        (
            model.get_submodule(edit.module),
            MaskedEdit(edit.change, members, [edit.span], [part.when], edit.protects_prefix),
        )
        for part, members in chosen.values()
        for edit in part.vector.edits(model, part.direction, part.multiplier)
    ]


class SiteEdit:
    """The edits that vectors make to the rows of a batch at one site; None leaves a row alone."""

    def __init__(self, rows: Sequence[RowEdit | None], site: Site) -> None:
        rank = max(len(row.target) for row in rows if row is not None)
        self.weight = torch.zeros(len(rows), rank, site.width)
        self.target = torch.zeros(len(rows), 1, rank)
        self.clamps = torch.zeros(len(rows), 1, 1, dtype=torch.bool)
        self.only_clamps = all(row.clamps for row in rows if row is not None)
        for i, row in enumerate(rows):
            if row is not None:
                self.weight[i, : len(row.target)] = row.weight
                self.target[i, 0, : len(row.target)] = row.target
                self.clamps[i] = row.clamps

    def change(self, _taken: Tensor, hidden: Tensor) -> Tensor:
        """The output of the block edited, whatever its input."""
        return self.apply(hidden)

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
