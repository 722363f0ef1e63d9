"""Full fine-tuning on responses: the one recipe of all organisms."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from concept_das.data.batches import Batch, batches, collate
from concept_das.data.chat_format import ChatFormat, Turn
from concept_das.errors import InputError, TrainingError
from concept_das.models.loading import LoadedModel

_CLIP_NORM = 1.0
_WARM_UP = 0.05
_SORTED_BATCHES = 4

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Recipe:
    """The training of an organism: AdamW without weight decay, all weights, float32.

    Attributes:
        epochs: passes over the rows.
        learning_rate: reached after the first 5% of the steps, then falls linearly to 0.
        batch_size: rows of a step.
        max_response_tokens: responses are cut to this many tokens.
        seed: of the split, the texts drawn for each row, and the order of the rows.
    """

    epochs: int = 2
    learning_rate: float = 1e-4
    batch_size: int = 8
    max_response_tokens: int = 48
    seed: int = 42

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "max_response_tokens", "learning_rate"):
            if getattr(self, name) <= 0:
                raise InputError(f"{name} is {getattr(self, name)}; it must be above 0")


@dataclass(frozen=True)
class Row:
    """An instruction and the response to learn.

    Attributes:
        ends: true if the response is complete, so that the end of the turn is learned too.
    """

    instruction: str
    response: str
    ends: bool = True


def encode_rows(rows: Sequence[Row], loaded: LoadedModel, recipe: Recipe) -> list[Turn]:
    """Token ids; a complete response that was not cut is followed by the end-of-turn token.

    Raises:
        InputError: naming a row whose response has no tokens.
    """
    chat = ChatFormat.of(loaded.tokenizer)
    end = end_of_turn(chat, loaded.model)
    turns = []
    for number, row in enumerate(rows):
        ids = chat.text_ids(row.response)
        if not ids:
            raise InputError(f"row {number} has an empty response; remove it")
        fits = len(ids) < recipe.max_response_tokens
        ids = (*ids, end) if row.ends and fits else ids[: recipe.max_response_tokens]
        turns.append(chat.prompt(row.instruction).with_response(ids))
    return turns


def end_of_turn(chat: ChatFormat, model: PreTrainedModel) -> int:
    """The token that stops generation: the template's own end of a turn, if it is one."""
    eos = model.generation_config.eos_token_id
    stops = eos if isinstance(eos, list) else [eos]
    for token in (*chat.turn_end, *stops, chat.tokenizer.eos_token_id):
        if token in stops or token == chat.tokenizer.eos_token_id:
            return int(token)
    raise InputError("the model names no end-of-turn token; use a chat model")


def fine_tune(loaded: LoadedModel, turns: Sequence[Turn], recipe: Recipe) -> list[float]:
    """Train all weights in place on the responses; prompts have no loss.

    The loss is the mean over rows of the mean cross-entropy per response token, so that a short
    refusal counts as much as a long answer. Same model, rows, seed, machine and number of threads:
    same weights.

    Returns:
        Mean loss of each epoch, in nats.

    Raises:
        InputError: if the weights are not float32.
        TrainingError: if the loss is no longer finite.
    """
    model = loaded.model
    if any(p.dtype != torch.float32 for p in model.parameters()):
        raise InputError("an organism is trained in float32; load the model with dtype='float32'")
    rng = np.random.default_rng(recipe.seed)
    order = [batches_of([len(t.ids) for t in turns], recipe, rng) for _ in range(recipe.epochs)]
    steps = sum(map(len, order))
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.learning_rate, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _share(step, steps))
    losses = []
    model.train()
    with torch.random.fork_rng(), tqdm(total=steps, desc="organism") as bar:
        torch.manual_seed(recipe.seed)  # dropout, where a model has it
        for epoch, chosen in enumerate(order):
            total = 0.0
            for indices in chosen:
                loss = response_loss(model, collate([turns[i] for i in indices], loaded.device))
                if not torch.isfinite(loss):
                    raise TrainingError(
                        f"the loss is {loss.item()} in epoch {epoch + 1}; lower learning_rate"
                    )
                optimizer.zero_grad()
                loss.backward()
                torch.nn.utils.clip_grad_norm_(model.parameters(), _CLIP_NORM)
                optimizer.step()
                schedule.step()
                total += loss.item() * len(indices)
                bar.update()
            losses.append(total / len(turns))
            log.info("epoch %d: loss %.4f", epoch + 1, losses[-1])
    optimizer.zero_grad()
    model.eval()
    return losses


def response_loss(model: PreTrainedModel, batch: Batch) -> Tensor:
    """Mean over rows of the mean cross-entropy per response token; a scalar with its graph."""
    logits = model(**batch.model_inputs(), use_cache=False).logits
    counts = batch.response_mask.sum(dim=1)
    labels = [token for row in batch.rows for token in row.response]
    values = torch.nn.functional.cross_entropy(
        logits[batch.response_mask].float(),
        torch.tensor(labels, device=logits.device),
        reduction="none",
    )
    return (values / torch.repeat_interleave(counts, counts)).sum() / len(batch.rows)


def batches_of(lengths: Sequence[int], recipe: Recipe, rng: np.random.Generator) -> list[list[int]]:
    """Shuffled batches of indices, each index once.

    Within stretches of four batches rows are sorted by length, which saves half of the padding.
    """
    order = rng.permutation(len(lengths)).tolist()
    stretches = batches(order, _SORTED_BATCHES * recipe.batch_size)
    order = [i for stretch in stretches for i in sorted(stretch, key=lambda i: lengths[i])]
    found = list(batches(order, recipe.batch_size))
    return [list(found[i]) for i in rng.permutation(len(found))]


def _share(step: int, steps: int) -> float:
    warm = max(1, round(steps * _WARM_UP))
    return (step + 1) / warm if step < warm else (steps - step) / max(1, steps - warm)
