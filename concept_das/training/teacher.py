"""A teacher of the user's own, in place of the model itself on the source prompt."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel

from concept_das.data.batches import Batch
from concept_das.errors import InputError
from concept_das.models.blocks import evaluating
from concept_das.models.identity import ModelIdentity
from concept_das.models.loading import LoadedModel


@dataclass(frozen=True)
class Teacher:
    """The distribution that is learned from, for methods that match one.

    It is asked once for each source prompt with its response; the coordinates that are swapped are
    the steered model's own all the same.

        train_vector(model, tokenizer, rows, teacher=Teacher(ensemble, "three models, 2026-05"))

    Attributes:
        logits: (`input_ids`, `attention_mask`), both `[rows, positions]` and padded on the right ->
            logits `[rows, positions, vocabulary]` of the next tokens, over the steered model's
            vocabulary; or an object that has them as `logits`.
        name: of what it computes, a hash for instance. It belongs to the run: saved progress is
            only gone on with if it is the same, and without a name none is saved.
    """

    logits: Callable[[Tensor, Tensor], Any]
    name: str | None = None

    @classmethod
    def of(cls, source: Any) -> "Teacher":
        """Of a model, which is named by its weights, or of a function, which has no name."""
        if isinstance(source, Teacher):
            return source
        model = source.model if isinstance(source, LoadedModel) else source
        if isinstance(model, PreTrainedModel):
            return cls(_logits_of(model), ModelIdentity.of(model).fingerprint)
        if not callable(model):
            raise InputError(
                f"a {type(source).__name__} is no teacher; give a function of input_ids and "
                "attention_mask, or a model"
            )
        return cls(model)

    @torch.no_grad()
    def of_batch(self, batch: Batch, vocabulary: int) -> Float[Tensor, "rows positions vocab"]:
        """The logits for a batch.

        Raises:
            InputError: if they have another shape, or another vocabulary than the steered model.
        """
        found = self.logits(batch.input_ids, batch.attention_mask)
        logits = getattr(found, "logits", found)
        wanted = (*batch.input_ids.shape, vocabulary)
        if not isinstance(logits, Tensor) or not logits.is_floating_point():
            raise InputError(f"the teacher gives a {type(logits).__name__}; it must give logits")
        if tuple(logits.shape) != wanted:
            raise InputError(
                f"the teacher gives logits of shape {tuple(logits.shape)} and not {wanted} (rows, "
                "positions, the steered model's vocabulary); give it the same tokenizer, and cut "
                "what was added to its vocabulary"
            )
        return logits


def _logits_of(model: PreTrainedModel) -> Callable[[Tensor, Tensor], Tensor]:
    def logits(input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        device = model.get_input_embeddings().weight.device
        given = {"input_ids": input_ids, "attention_mask": attention_mask}
        with evaluating(model):
            output = model(**{k: v.to(device) for k, v in given.items()}, use_cache=False)
        found = output.logits
        assert isinstance(found, Tensor)
        return found

    return logits
