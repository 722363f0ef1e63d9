"""Concept detection: the largest coordinate along a direction over a text's tokens (AxBench)."""

from collections.abc import Mapping

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from benchmarks.steps import Subject
from concept_das.data.chat_format import Turn
from concept_das.models.logits import hidden_states_of
from concept_das.steering.artifact import Artifact
from concept_das.steering.vector import SteeringVector


def detection_axis(vector: SteeringVector) -> Float[Tensor, "dim"]:
    """Unit vector towards the concept: from the factors of suppression to those of elicitation.

    At rank 1 that is the direction itself, turned so that the concept is on its positive side.
    """
    axis = (vector.positive_factor - vector.negative_factor) @ vector.weight
    return axis / axis.norm()


def detectors(artifacts: Mapping[str, Artifact]) -> dict[str, SteeringVector]:
    """Those that are directions at one block, which is what detection is defined for."""
    return {
        name: found
        for name, found in artifacts.items()
        if isinstance(found, SteeringVector) and len(found.sites) == 1
    }


@torch.no_grad()
def detection_scores(
    subject: Subject,
    texts: pd.DataFrame,
    vectors: Mapping[str, SteeringVector],
    *,
    max_tokens: int,
    batch_size: int = 8,
) -> pd.DataFrame:
    """Score every text by every vector; vectors at the same block share the forward passes.

    Args:
        texts: `label`, `instruction` and `response`.
        vectors: by method.
        max_tokens: how much of a response is read.

    Returns:
        One row per method and text: `method`, `label`, `score`, which is the largest coordinate
        over the tokens of instruction and response, the template prefix left out.
    """
    chat, model = subject.chat, subject.loaded.model
    turns = [
        chat.prompt(instruction).with_response(chat.text_ids(response)[:max_tokens])
        for instruction, response in zip(texts["instruction"], texts["response"], strict=True)
    ]
    found = []
    for layer in sorted({vector.layer for vector in vectors.values()}):
        names = [name for name, vector in vectors.items() if vector.layer == layer]
        site = vectors[names[0]].site(model)
        axes = torch.stack([detection_axis(vectors[name]) for name in names])
        scores: list[Tensor] = []
        for batch, (hidden,) in hidden_states_of(model, [site], turns, batch_size):
            latents = hidden.float() @ axes.to(hidden.device).T
            scores += [_largest(row, turn) for row, turn in zip(latents, batch.rows, strict=True)]
        found += [
            {"method": name, "label": label, "score": float(of_text[i])}
            for of_text, label in zip(scores, texts["label"], strict=True)
            for i, name in enumerate(names)
        ]
    return pd.DataFrame(found, columns=["method", "label", "score"])


def _largest(latents: Float[Tensor, "positions methods"], turn: Turn) -> Float[Tensor, "methods"]:
    """Over the text's own tokens; batches are padded on the right."""
    return latents[turn.prompt.prefix_length : len(turn.ids)].amax(dim=0).cpu()
