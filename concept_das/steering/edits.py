"""The edits that steer a batch, as forward hooks of the modules that they change."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from transformers import PreTrainedModel

from concept_das.models.blocks import Site, hidden_of, replace_hidden
from concept_das.steering.artifact import ModuleEdit
from concept_das.steering.conditions import Condition, Gates
from concept_das.steering.entries import RowEdit, Steering
from concept_das.steering.positions import EVERYWHERE, _per_row, _PositionSelection
from concept_das.steering.vector import SteeringVector
from concept_das.words import Direction
from interventions import set_coordinates

Hook = Callable[[nn.Module, Any, Any], Any]

Change = Callable[[Tensor, Tensor], tuple[Tensor, Bool[Tensor, "batch positions"]] | None]
"""(A module's input, its output) -> the output edited everywhere, and true where it is to be; None
if that is nowhere."""

Rows = Sequence[Sequence[Steering]]
"""All that steers each row of a batch."""


class BatchEdits:
    """All that is changed in a model to steer a batch.

    Attributes:
        spans: the tokens that the edits change.
    """

    def __init__(self, model: PreTrainedModel, rows: Rows) -> None:
        self.model = model
        self.at_sites = _site_edits(model, rows)
        self.on_modules = _module_edits(model, rows)
        self.spans = {span for _, edit in self.at_sites for span in edit.spans}
        self.spans |= {edit.span for edit, _, _ in self.on_modules}
        self.conditions = [part.when for row in rows for part in row if part.when is not None]

    def hooks(self, selection: _PositionSelection) -> list[tuple[nn.Module, Hook]]:
        """The hooks that read conditions, and one for each changed module, for all its edits."""
        gates = Gates(self.model, self.conditions, selection)
        changes: dict[nn.Module, list[Change]] = {}
        for site, edits in self.at_sites:
            changes.setdefault(site.module(self.model), []).append(edits.change(selection, gates))
        for edit, members, condition in self.on_modules:
            module = self.model.get_submodule(edit.module)
            change = _change_of(edit, members, condition, selection, gates)
            changes.setdefault(module, []).append(change)
        edited = [(module, _hook(of_module)) for module, of_module in changes.items()]
        # A condition is read before the edits at its own block.
        return [*gates.hooks(), *edited]


def _hook(changes: Sequence[Change]) -> Hook:
    """A forward hook that adds up changes, each computed from the output before any of them."""

    def apply(_module: nn.Module, args: Any, output: Any) -> Any:
        hidden = hidden_of(output)
        steered, changed = hidden, None
        for change in changes:
            found = change(args[0] if args else hidden, hidden)
            if found is None:
                continue
            edited, mask = found[0], found[1].unsqueeze(-1)
            if changed is not None:
                both = (steered.float() + (edited.float() - hidden.float())).to(hidden.dtype)
                # What one edit alone changes is exactly that edit's.
                edited = torch.where(changed, both, edited)
            steered = torch.where(mask, edited, steered)
            changed = mask if changed is None else changed | mask
        return None if changed is None else replace_hidden(output, steered)

    return apply


def _site_edits(model: PreTrainedModel, rows: Rows) -> list[tuple[Site, "SiteEdit"]]:
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
    return [(site, SiteEdit(edits, site)) for site, at_site in sites.items() for edits in at_site]


def _module_edits(
    model: PreTrainedModel, rows: Rows
) -> list[tuple[ModuleEdit, Bool[Tensor, "rows"], Condition | None]]:
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
        (edit, members, part.when)
        for part, members in chosen.values()
        for edit in part.vector.edits(model, part.direction, part.multiplier)
    ]


def _change_of(
    edit: ModuleEdit,
    members: Bool[Tensor, "rows"],
    condition: Condition | None,
    selection: _PositionSelection,
    gates: Gates,
) -> Change:
    """The change of a module's output for some rows."""

    def change(taken: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor] | None:
        mask = selection.mask_for(hidden, [edit.span], edit.protects_prefix)
        if mask is None:
            return None
        mask = mask & _per_row(members, len(hidden)).to(mask.device).reshape(-1, 1)
        return edit.change(taken, hidden), gates.open([condition] * len(members), mask)

    return change


class SiteEdit:
    """The edits that vectors make to the rows of a batch at one site; None leaves a row alone."""

    def __init__(self, rows: Sequence[RowEdit | None], site: Site) -> None:
        rank = max(len(row.target) for row in rows if row is not None)
        self.weight = torch.zeros(len(rows), rank, site.width)
        self.target = torch.zeros(len(rows), 1, rank)
        self.clamps = torch.zeros(len(rows), 1, 1, dtype=torch.bool)
        self.steers = torch.tensor([row is not None for row in rows])
        self.spans = [EVERYWHERE if row is None else row.span for row in rows]
        self.conditions = [None if row is None else row.when for row in rows]
        self.only_clamps = all(row.clamps for row in rows if row is not None)
        for i, row in enumerate(rows):
            if row is not None:
                self.weight[i, : len(row.target)] = row.weight
                self.target[i, 0, : len(row.target)] = row.target
                self.clamps[i] = row.clamps

    def change(self, selection: _PositionSelection, gates: Gates) -> Change:
        """The change of the site's hidden states."""

        def change(_taken: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor] | None:
            mask = selection.mask_for(hidden, self.spans)
            if mask is None:
                return None
            mask = mask & _per_row(self.steers, len(hidden)).to(mask.device).reshape(-1, 1)
            return self.apply(hidden), gates.open(self.conditions, mask)

        return change

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
