"""Prompts that tests of steering share, what a model makes of them, and where it is steered."""

from collections.abc import Sequence
from typing import Any

import transformers
from jaxtyping import Bool
from packaging.version import Version
from torch import Tensor, nn
from transformers import PreTrainedModel

from concept_das.data.batches import collate
from concept_das.data.chat_format import Prompt, Turn
from concept_das.steering.vector import SteeringVector
from interventions import coordinates
from tests.concept_das.helpers import PAD, ROWS, tiny_chat
from tests.tiny import MAX_POSITIONS, tiny_model

PROMPTS = [tiny_chat().prompt(row.negative_input) for row in ROWS[:4]]
PREFIX = PROMPTS[0].prefix_length
NEW = 6


def inputs_of(prompts: Sequence[Prompt], padding_side: Any = "left") -> dict[str, Tensor]:
    batch = collate([Turn(prompt) for prompt in prompts], padding_side=padding_side)
    return {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}


def generated(model: PreTrainedModel, prompts: Sequence[Prompt], **options: Any) -> list[list[int]]:
    """New tokens of each row; always as many as asked for, so that rows can be compared."""
    inputs = inputs_of(prompts)
    options = {"max_new_tokens": NEW, "min_new_tokens": NEW, "do_sample": False, **options}
    if options.get("use_cache") is False:
        options["cache_implementation"] = None  # else Gemma-2's own choice draws a warning
    output = model.generate(**inputs, pad_token_id=PAD, **options)
    return output[:, inputs["input_ids"].shape[1] :].tolist()


def generating_model(architecture: str) -> PreTrainedModel:
    """A tiny model whose unsteered generation depends on neither cache nor padding.

    That of transformers 4.45 does for Gemma-2 when the prompt is longer than the sliding window.
    """
    model = tiny_model(architecture)
    if architecture == "gemma2" and Version(transformers.__version__).major < 5:
        for module in (*model.modules(), model.config):
            if getattr(module, "sliding_window", None):
                module.sliding_window = MAX_POSITIONS
    return model


def state_of(model: nn.Module) -> tuple[Any, ...]:
    hooks = [
        (name, dict(module._forward_hooks), dict(module._forward_pre_hooks))
        for name, module in model.named_modules()
        if module._forward_hooks or module._forward_pre_hooks
    ]
    return hooks, "generate" in vars(model), model.training


def clamped(hidden: Tensor, vector: SteeringVector) -> Bool[Tensor, "rows positions"]:
    """True where hidden states have the coordinates that a vector elicits by."""
    return (coordinates(hidden, vector.weight) - vector.target("elicit")).abs().amax(-1) < 1e-3
