"""Batched generation from prompts, steered or not."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from tqdm import tqdm
from transformers import PreTrainedModel

from concept_das.chats import ChatFormat, Prompt, Turn, collate, pad_id_of
from concept_das.scoring import batches


@torch.no_grad()
def generate_responses(
    model: PreTrainedModel,
    chat: ChatFormat,
    prompts: Sequence[Prompt],
    *,
    max_new_tokens: int = 128,
    temperature: float = 0.0,
    batch_size: int = 16,
    progress: str | None = None,
    seed: int = 0,
    on_batch: Callable[[list[int], list[str]], None] | None = None,
) -> list[str]:
    """The model's answers, in the order of the prompts.

    Prompts of similar length share a batch. Inside a `steer` block with one vector for all rows the
    answers are steered; a list of vectors would not meet its rows.

    Args:
        temperature: 0 decodes greedily.
        seed: of the sampling, set once per call.
        on_batch: called with the indices and texts of each finished batch, so that long work can be
            saved as it goes.
    """
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i].ids))
    texts = [""] * len(prompts)
    pad = pad_id_of(chat.tokenizer)
    device = model.get_input_embeddings().weight.device
    sampling: dict[str, Any] = {
        "do_sample": True,
        "temperature": temperature,
        "top_k": 0,
        "top_p": 1.0,
    }
    if temperature == 0:
        sampling = {"do_sample": False, "temperature": None, "top_k": None, "top_p": None}
    torch.manual_seed(seed)
    bar = tqdm(total=len(prompts), desc=progress, disable=progress is None)
    for indices in batches(order, batch_size):
        batch = collate([Turn(prompts[i]) for i in indices], pad, device, padding_side="left")
        output = model.generate(
            input_ids=batch.input_ids,
            attention_mask=batch.attention_mask,
            max_new_tokens=max_new_tokens,
            pad_token_id=pad,
            **sampling,
        )
        new = chat.tokenizer.batch_decode(
            output[:, batch.input_ids.shape[1] :], skip_special_tokens=True
        )
        for i, text in zip(indices, new, strict=True):
            texts[i] = text.strip()
        if on_batch is not None:
            on_batch(list(indices), [texts[i] for i in indices])
        bar.update(len(indices))
    bar.close()
    return texts
