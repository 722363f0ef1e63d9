"""LoReFT between this project and pyreft's own models and folders."""

import os
import re
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from concept_das.errors import InputError
from concept_das.exports.pyvene import layer_of, read_config, read_tensors
from concept_das.methods.loreft import LearnedEdit, LoreftTensors, loreft_intervention
from concept_das.models.blocks import find_site
from concept_das.models.identity import ModelIdentity
from concept_das.words import Direction


def to_pyreft(edit: LearnedEdit, model: PreTrainedModel, direction: Direction = "elicit") -> Any:
    """A `pyreft.ReftModel` with the same interventions, to be called, saved or trained on.

    Give it the positions at every call: `edit.ends` of the prompt, the template prefix skipped.

    Raises:
        InputError: if pyreft is not installed, or the edit was not trained in that direction.
        VectorMismatchError: if the edit belongs to another model.
    """
    edit.check_direction(direction)
    edit.check_model(model)
    representations = []
    for layer, tensors in sorted(edit.parts[direction].items()):
        site = find_site(model, layer)
        intervention = loreft_intervention(LoreftTensors(*tensors))
        representations.append(
            {
                "component": site.component,
                "low_rank_dimension": edit.rank,
                "intervention": intervention.to(next(site.module(model).parameters()).device),
            }
        )
    import pyreft  # `loreft_intervention` has said so if it is missing

    return pyreft.get_reft_model(
        model, pyreft.ReftConfig(representations=representations), set_device=False
    )


def from_pyreft(
    folder: str | os.PathLike[str],
    model: PreTrainedModel,
    *,
    ends: tuple[int, int] = (5, 5),
    prefix_length: int = 0,
    concept: str = "",
) -> LearnedEdit:
    """Read a folder that `pyreft.ReftModel.save` wrote, on every architecture; it elicits.

    pyreft itself cannot read it back where the sites are string paths (pyreft #125). The folder
    does not say which model it was trained on: the given one is taken at its word.

    Args:
        ends: tokens at either end of the prompt that are edited, as it was trained.
        prefix_length: leading tokens of a prompt that are left alone and not counted; 0 in pyreft.
        concept: name of the concept, for reports.

    Raises:
        InputError: if the folder holds another intervention than LoReFT, or does not fit the model.
    """
    source = Path(folder)
    config = read_config(source)
    loreft: dict[int, LoreftTensors] = {}
    for representation, kind, key in zip(
        config["representations"], config["intervention_types"], config["sorted_keys"], strict=True
    ):
        if not re.search(r"\bLoreftIntervention\b", str(kind)):
            raise InputError(
                f"{source} holds a {kind}; load it by pyreft and use from_intervenable"
            )
        layer = layer_of(model, *representation[:2])
        tensors = LoreftTensors.from_pyreft(read_tensors(source / f"intkey_{key}.bin"))
        find_site(model, layer).check_width(tensors.rotation.shape[1], source)
        loreft[layer] = tensors
    return LearnedEdit(
        parts={"elicit": loreft},
        ends=ends,
        model=ModelIdentity.of(model),
        method="loreft",
        concept=concept,
        prefix_length=prefix_length,
    )
