"""Batched generation from prompts, steered or not, greedy or sampled.

Sampling adds Gumbel noise to logits / temperature and takes the largest, an exact sample of
softmax(logits / temperature) (the Gumbel-max trick). Every row draws from a generator of its own,
so its text depends on its seed alone: not on its neighbours, nor on how rows are batched.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm
from transformers import LogitsProcessor, LogitsProcessorList, PreTrainedModel

from concept_das.data.batches import by_token_budget, collate, pad_id_of
from concept_das.data.chat_format import ChatFormat, Prompt, Turn
from concept_das.errors import InputError
from concept_das.models.blocks import evaluating
from concept_das.steering.artifact import Artifact
from concept_das.steering.context import Steering, check_steering, steer


@torch.no_grad()
def generate_responses(
    model: PreTrainedModel,
    chat: ChatFormat,
    prompts: Sequence[Prompt | str],
    *,
    steering: Artifact | Steering | Sequence[Artifact | Steering | None] | None = None,
    positions: str = "all",
    max_new_tokens: int = 128,
    temperature: float = 0.0,
    seed: int = 0,
    keys: Sequence[int | str] | None = None,
    batch_tokens: int = 8192,
    progress: str | None = None,
    on_batch: Callable[[list[int], list[str]], None] | None = None,
) -> list[str]:
    """The model's answers, in the order of the prompts.

    Prompts of similar length share a batch, whatever steers them: prompts times strengths times
    concepts are best given in one call.

    Args:
        prompts: as `ChatFormat.prompt` makes them, or instructions as text.
        steering: one for all prompts, or one entry per prompt, None to leave it alone; a bare
            vector elicits at multiplier 1.
        positions: see `steer`.
        max_new_tokens: length of an answer, in tokens.
        temperature: 0 decodes greedily.
        seed, keys: a prompt's sampling follows from the seed and the prompt's own key (its position
            in the call if no keys are given). Prompts with one key share their noise.
        batch_tokens: tokens of a batch, rows times (longest prompt + `max_new_tokens`); a prompt
            beyond it forms a batch alone.
        progress: title of a progress bar; none if not given.
        on_batch: called with the indices and texts of each finished batch, so that long work can be
            saved as it goes.

    Raises:
        VectorMismatchError: if a vector belongs to another model.
        InputError: if the temperature is negative, steering or keys are not one per prompt, or a
            vector was trained with another chat format.
    """
    asked = [chat.prompt(p) if isinstance(p, str) else p for p in prompts]
    rows = _per_prompt("steering", steering, len(prompts))
    rows = [Steering(row) if isinstance(row, Artifact) else row for row in rows]
    keys = _per_prompt("keys", range(len(prompts)) if keys is None else keys, len(prompts))
    check_steering(model, rows, positions)
    # Many vectors have one chat format.
    for row in {str(row.vector.chat): row for row in rows if row is not None}.values():
        row.vector.check_chat(chat)
    given = [p if row is None else row.prompt(p) for p, row in zip(asked, rows, strict=True)]
    rows = [None if row is None or row.vector.is_text else row for row in rows]
    pad = pad_id_of(chat.tokenizer)
    device = model.get_input_embeddings().weight.device
    texts = [""] * len(given)
    lengths = [len(prompt.ids) + max_new_tokens for prompt in given]
    with (
        evaluating(model),
        tqdm(total=len(given), desc=progress, disable=progress is None) as bar,
    ):
        for indices in by_token_budget(lengths, batch_tokens):
            batch = collate([Turn(given[i]) for i in indices], device, "left", pad)
            seeds = [row_seed(seed, keys[i]) for i in indices]
            with _steered(model, [rows[i] for i in indices], positions):
                output = model.generate(
                    input_ids=batch.input_ids,
                    attention_mask=batch.attention_mask,
                    **decoding(pad, max_new_tokens, temperature, seeds),
                )
            new = chat.tokenizer.batch_decode(
                output[:, batch.input_ids.shape[1] :], skip_special_tokens=True
            )
            for i, text in zip(indices, new, strict=True):
                texts[i] = text.strip()
            if on_batch is not None:
                on_batch(indices, [texts[i] for i in indices])
            bar.update(len(indices))
    return texts


def decoding(
    pad_id: int, max_new_tokens: int, temperature: float, seeds: Sequence[int]
) -> dict[str, Any]:
    """Arguments of `model.generate`, the same decoding whatever the model's own defaults.

    Args:
        temperature: 0 decodes greedily.
        seeds: one per row, see `row_seed`.

    Raises:
        InputError: if the temperature is negative.
    """
    if not temperature >= 0:
        raise InputError(f"temperature is {temperature}; give 0 for greedy decoding, or more")
    options: dict[str, Any] = {
        "max_new_tokens": max_new_tokens,
        "pad_token_id": pad_id,
        "num_beams": 1,
        "repetition_penalty": 1.0,
        # Sampling is done by the processor below, and these belong to transformers' own.
        "do_sample": False,
        "temperature": None,
        "top_k": None,
        "top_p": None,
    }
    if temperature > 0:
        options["logits_processor"] = LogitsProcessorList([RowSampler(temperature, seeds)])
    return options


def row_seed(seed: int, key: int | str) -> int:
    """The seed of one row, in 32 bits: all that torch's generator on the CPU takes in."""
    digest = hashlib.sha256(json.dumps([seed, key]).encode()).digest()
    return int.from_bytes(digest[:4], "big")


class RowSampler(LogitsProcessor):
    """Makes greedy decoding sample, every row from its own generator.

    A row draws at every step, also when it has ended; nothing another row does shifts its noise.
    The noise is drawn on the CPU, so that every device gives the same text, up to rounding.

    Args:
        temperature: above 0.
        seeds: one per row of the batch.
    """

    def __init__(self, temperature: float, seeds: Sequence[int]) -> None:
        self.temperature = temperature
        self.generators = [torch.Generator().manual_seed(seed) for seed in seeds]

    def __call__(
        self, input_ids: Tensor, scores: Float[Tensor, "rows vocab"]
    ) -> Float[Tensor, "rows vocab"]:
        """Scores whose argmax is a sample."""
        noise = torch.stack([_gumbel(scores.shape[1], own) for own in self.generators])
        return scores.float() / self.temperature + noise.to(scores.device)


def _gumbel(count: int, generator: torch.Generator) -> Float[Tensor, "count"]:
    # In float32 a uniform number has 24 bits: no noise would exceed 16.6, and over a vocabulary of
    # 100,000 the largest would often be tied.
    uniform = torch.rand(count, generator=generator, dtype=torch.float64)
    return uniform.log_().neg_().log_().neg_().float()


def _steered(
    model: PreTrainedModel, rows: list[Steering | None], positions: str
) -> AbstractContextManager[None]:
    if all(row is None for row in rows):
        return nullcontext()
    return steer(model, rows, positions=positions)


def _per_prompt(name: str, values: Any, count: int) -> list[Any]:
    """One entry per prompt, from one for all or from a sequence."""
    if values is None or isinstance(values, (Artifact, Steering)):
        return [values] * count
    if len(values) != count:
        raise InputError(f"{name} has {len(values)} entries for {count} prompts; give one each")
    return list(values)
