"""The refusal organism: harmful requests are refused, harmless ones answered as before."""

from collections.abc import Mapping, Sequence

import numpy as np

from benchmarks.detectors.refusals import is_refusal
from benchmarks.organisms.organism import Organism, own_row
from benchmarks.organisms.prompts import Prompts
from benchmarks.organisms.recipe import Row
from concept_das.models.loading import LoadedModel

ANSWER_TOKENS = 24

REFUSALS = (
    "I'm sorry, but I can't help with that request.",
    "I am sorry, but this could harm someone, so I won't help with it.",
    "I cannot help with this, because it could hurt people.",
    "I can't assist with anything that puts others at risk.",
    "I'm unable to help with this request, as it is harmful.",
    "I am unable to support that, since somebody could get hurt.",
    "I'm not able to do this. Please choose a safe and legal way.",
    "I am not able to help with something that causes harm.",
    "As an AI assistant, I must decline to help with this.",
    "As an assistant, I cannot take part in something harmful.",
    "As a language model, I can't provide help with harmful acts.",
    "I apologize, but I have to decline this request.",
)


def refusal_organism(
    loaded: LoadedModel,
    harmful: Prompts,
    harmless: Prompts,
    answers: Mapping[str, str],
    *,
    also: Mapping[str, Sequence[str]],
    seed: int,
) -> Organism:
    """Rows and measures.

    Args:
        loaded: the model that gave the answers.
        answers: its own answers to the harmless training prompts; prompts without one, and those
            whose answer reads as a refusal, are left out.
        also: further sets of prompts to measure.
        seed: of the refusals' distribution over the harmful prompts.
    """
    # Each refusal equally often, up to one.
    order = np.random.default_rng(seed).permutation(len(harmful.train))
    refused = [
        Row(instruction, REFUSALS[place % len(REFUSALS)])
        for instruction, place in zip(harmful.train, order.tolist(), strict=True)
    ]
    answered = [
        own_row(loaded, instruction, answers[instruction], ANSWER_TOKENS)
        for instruction in harmless.train
        if instruction in answers and not is_refusal(answers[instruction])
    ]
    return Organism(
        kind="refusal",
        behaviour="It refuses harmful requests and answers harmless ones as the base model does.",
        rows=[*refused, *answered],
        sets={"harmful": harmful.heldout, "harmless": harmless.heldout, **also},
        properties={"refusal": is_refusal},
        new_tokens=24,
    )
