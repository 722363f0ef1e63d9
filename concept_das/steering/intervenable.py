"""Steer with a model that pyvene or pyreft trained: an `IntervenableModel` or a `ReftModel`."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from pyvene.models.modeling_utils import do_intervention
from torch import Tensor, nn
from transformers import PreTrainedModel

from concept_das.errors import InputError
from concept_das.models.blocks import find_site
from concept_das.models.identity import ModelIdentity
from concept_das.steering.artifact import Artifact, ModuleEdit
from concept_das.steering.positions import EVERYWHERE, Span
from concept_das.words import Direction
from interventions.backend import pyvene as pv


@dataclass(frozen=True)
class Intervened(Artifact):
    """Interventions that need no source, as they are: h + m (f(h) - h), m the multiplier.

    pyvene and pyreft save them in their own formats; this only applies them.

    Attributes:
        interventions: pyvene's, by the path of the module whose output they edit.
        ends: how many tokens at the start of the prompt, `prefix_length` not counted, and how many
            at its end are edited; None for every position, new tokens too.
        steers: the directions that it stands for.
    """

    operations: ClassVar[tuple[str, ...]] = ()

    interventions: Mapping[str, nn.Module]
    ends: tuple[int, int] | None = None
    steers: tuple[Direction, ...] = ("elicit",)

    @property
    def directions(self) -> tuple[Direction, ...]:
        """The directions that it stands for."""
        return self.steers

    @property
    def rank(self) -> int:
        """0, because interventions of pyvene have no common notion of rank."""
        return 0

    @property
    def layers(self) -> tuple[int, ...]:
        """The blocks it acts in, from the lowest."""
        numbers = [re.search(r"\.(\d+)(\.|$)", path) for path in self.interventions]
        return tuple(sorted({int(found[1]) for found in numbers if found}))

    def edits(
        self, model: PreTrainedModel, direction: Direction, multiplier: float
    ) -> Sequence[ModuleEdit]:
        """One for each intervention."""
        return [
            ModuleEdit(
                path,
                partial(_apply, intervention=intervention, multiplier=multiplier),
                span=EVERYWHERE if self.ends is None else Span(*self.ends, generated=False),
            )
            for path, intervention in self.interventions.items()
        ]

    def tensors(self) -> dict[str, Tensor]:
        """Everything that was learned."""
        return {
            f"{path}.{name}": value.detach()
            for path, intervention in self.interventions.items()
            for name, value in intervention.named_parameters()
        }

    def edit_description(self) -> dict[str, Any]:
        """The interventions by module, and the tokens they edit."""
        return {
            "operation": "pyvene",
            "formula": "h + m (f(h) - h), f the intervention",
            "interventions": {path: str(f) for path, f in self.interventions.items()},
            "directions": list(self.steers),
            "tokens": None if self.ends is None else list(self.ends),
        }

    @classmethod
    def from_saved(
        cls, tensors: dict[str, Tensor], description: Mapping[str, Any], common: dict[str, Any]
    ) -> "Intervened":
        """Not offered.

        Raises:
            InputError: always.
        """
        raise InputError("this is saved by pyvene or pyreft; load it there, then from_intervenable")

    def save(self, folder: Any) -> Path:
        """Not offered.

        Raises:
            InputError: always.
        """
        raise InputError("save this by its own library: IntervenableModel.save or ReftModel.save")


def from_intervenable(
    intervenable: pv.IntervenableModel,
    *,
    steers: tuple[Direction, ...] = ("elicit",),
    ends: tuple[int, int] | None = None,
    prefix_length: int = 0,
    concept: str = "",
) -> Intervened:
    """Take an `IntervenableModel` or a `ReftModel` to `evaluate`, `steer` and `generate_responses`.

    ::

        reft_model = pyreft.get_reft_model(model, reft_config)  # trained as pyreft does it
        edit = from_intervenable(reft_model, ends=(5, 5))       # pyreft's position "f5+l5"
        evaluate(reft_model.model, chat, edit, heldout)

    The interventions themselves are applied, by reference: what is trained afterwards counts.

    Args:
        intervenable: its interventions need no source, and edit a module's output, addressed by a
            string path or as `block_output`.
        steers: the directions that it was trained for.
        ends: tokens at either end of the prompt that are edited, as it was trained; None for all.
        prefix_length: leading tokens of a prompt that are left alone and not counted.
        concept: name of the concept, for reports.

    Raises:
        InputError: if an intervention needs a source, or acts elsewhere.
    """
    model = intervenable.model
    found: dict[str, nn.Module] = {}
    for key, held in intervenable.interventions.items():
        intervention = held[0] if isinstance(held, (tuple, list)) else held
        if not getattr(intervention, "is_source_constant", False):
            raise InputError(
                f"{type(intervention).__name__} needs a source at every call; give an intervention "
                "without one, such as ClampIntervention or LoreftIntervention"
            )
        path = _module_of(model, intervenable.representations[key])
        if path in found:
            raise InputError(f"two interventions act at {path}; give one for each module")
        found[path] = intervention
    return Intervened(
        model=ModelIdentity.of(model),
        method=type(intervenable).__name__,
        concept=concept,
        prefix_length=prefix_length,
        interventions=found,
        ends=ends,
        steers=steers,
    )


def _module_of(model: PreTrainedModel, representation: Any) -> str:
    """The path of the module whose output pyvene's address names."""
    component = representation.component
    if component == "block_output":
        return find_site(model, representation.layer).module_name
    dotted = re.sub(r"\[(\d+)\]", r".\1", component)
    if not dotted.endswith(".output"):
        raise InputError(
            f"the intervention acts at {component}; only outputs of modules can be taken, such as "
            f"{find_site(model, 0).component}"
        )
    return dotted.removesuffix(".output")


def _apply(_inputs: Tensor, hidden: Tensor, intervention: nn.Module, multiplier: float) -> Tensor:
    # Each position by itself, as pyvene does with one position at a time; a copy, because some of
    # pyvene's interventions write into what they are given.
    alone = hidden.clone().reshape(-1, 1, hidden.shape[-1])
    moved = do_intervention(alone, None, intervention, None).reshape(hidden.shape)
    return (hidden + multiplier * (moved - hidden)).to(hidden.dtype)
