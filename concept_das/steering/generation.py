"""Batched generation from prompts, steered or not, greedy or sampled.

A sampled text depends on its row's seed alone: not on its neighbours, nor on how rows are batched.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import reduce
from typing import Any, Protocol, runtime_checkable

import torch
from tqdm.auto import tqdm
from transformers import (
    GenerationConfig,
    LogitsProcessorList,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from concept_das.data.batches import by_token_budget, collate, pad_id_of
from concept_das.data.chat_format import ChatFormat, Prompt, Turn, chat_of
from concept_das.errors import InputError
from concept_das.models.blocks import evaluating
from concept_das.models.loading import LoadedModel, model_of
from concept_das.steering.context import check_steering, steer_rows
from concept_das.steering.entries import Entry, Steering, parts_of
from concept_das.steering.positions import parse_positions
from concept_das.steering.sampling import RowSampler, check_sampling, row_seed


@dataclass(frozen=True)
class Question:
    """A prompt that a generator is to answer.

    Attributes:
        prompt: what steers with text is in it already.
        parts: what else steers it at once; empty for the untouched model.
        seed: of the sampling, see `row_seed`.
    """

    prompt: Prompt
    parts: tuple[Steering, ...]
    seed: int


@dataclass(frozen=True)
class Decoding:
    """The way answers are decoded; see `generate_responses`."""

    positions: str = "all"
    max_new_tokens: int = 128
    temperature: float = 0.0
    top_k: int | None = None
    top_p: float | None = None
    batch_tokens: int = 8192


@runtime_checkable
class Generator(Protocol):
    """Answers questions: `HuggingFace`, or one of `concept_das.serving`."""

    def check(self, rows: Sequence[tuple[Steering, ...]], positions: str) -> None:
        """Make sure, before any work, that rows can be steered.

        Args:
            rows: the parts of each, see `parts_of`; those that steer with text too.

        Raises:
            InputError: if they cannot.
        """

    def answers(
        self, questions: Sequence[Question], how: Decoding
    ) -> Iterator[tuple[list[int], list[list[int]]]]:
        """Indices of questions with the token ids of their answers, as they are finished."""


def generate_responses(
    model: PreTrainedModel | LoadedModel | None,
    chat: ChatFormat | PreTrainedTokenizerBase,
    prompts: Sequence[Prompt | str | Sequence[Mapping[str, Any]]],
    *,
    steering: Entry | Sequence[Entry | None] | None = None,
    positions: str = "all",
    max_new_tokens: int = 128,
    temperature: float = 0.0,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int = 0,
    keys: Sequence[int | str] | None = None,
    batch_tokens: int = 8192,
    progress: str | None = None,
    on_batch: Callable[[list[int], list[str]], None] | None = None,
    generator: Generator | None = None,
) -> list[str]:
    """The model's answers, in the order of the prompts.

    Prompts of similar length share a batch, whatever steers them: prompts times strengths times
    concepts are best given in one call.

    Args:
        model: None if a generator is given, which has its own.
        chat: the chat format, or a tokenizer for that of its template.
        prompts: as `ChatFormat.prompt` makes them; or instructions as text, or conversations as
            messages.
        steering: one for all prompts, or one entry per prompt, None to leave it alone; several
            vectors for a prompt as `Together`. A bare vector elicits at multiplier 1.
        positions: see `steer`.
        max_new_tokens: length of an answer, in tokens.
        temperature: 0 decodes greedily.
        top_k, top_p: sample only from the likeliest tokens: so many of them, or as many as together
            have this share of the probability. All by default.
        seed, keys: a prompt's sampling follows from the seed and the prompt's own key (its position
            in the call if no keys are given). Prompts with one key share their noise.
        batch_tokens: tokens of a batch, rows times (longest prompt + `max_new_tokens`); a prompt
            beyond it forms a batch alone.
        progress: title of a progress bar; none if not given.
        on_batch: called with the indices and texts of each finished batch, so that long work can be
            saved as it goes.
        generator: who answers, see `concept_das.serving.generators`; the model itself by default.
            Greedy answers are the same but for ties; noise of the sampling is another.

    Raises:
        VectorMismatchError: if a vector belongs to another model.
        InputError: if temperature, top_k or top_p mean nothing, steering or keys are not one per
            prompt, a vector was trained with another chat format, or the generator refuses.
    """
    chat = chat_of(chat)
    asked = [p if isinstance(p, Prompt) else chat.prompt(p) for p in prompts]
    rows = [parts_of(entry) for entry in _per_prompt("steering", steering, len(prompts))]
    keys = _per_prompt("keys", range(len(prompts)) if keys is None else keys, len(prompts))
    parse_positions(positions)
    if generator is None:
        generator = HuggingFace(model_of(model), chat.tokenizer)
    generator.check(rows, positions)
    check_sampling(temperature, top_k, top_p)
    # Many vectors have one chat format.
    vectors = [vector for row in rows for part in row for vector in part.vectors]
    for vector in {str(vector.chat): vector for vector in vectors}.values():
        vector.check_chat(chat)
    # What steers with text changes the prompt, everything else the model.
    given = [
        reduce(lambda p, part: part.prompt(p), row, p) for p, row in zip(asked, rows, strict=True)
    ]
    rows = [tuple(part for part in row if not part.vector.is_text) for row in rows]
    questions = [
        Question(prompt, row, row_seed(seed, key))
        for prompt, row, key in zip(given, rows, keys, strict=True)
    ]
    how = Decoding(positions, max_new_tokens, temperature, top_k, top_p, batch_tokens)
    texts = [""] * len(given)
    # Otherwise the user's TQDM_DISABLE decides, which also keeps a worker's bars off.
    off = {"disable": True} if progress is None else {}
    with tqdm(total=len(given), desc=progress, **off) as bar:
        for indices, new in generator.answers(questions, how):
            found = chat.tokenizer.batch_decode(new, skip_special_tokens=True)
            for i, text in zip(indices, found, strict=True):
                texts[i] = text.strip()
            if on_batch is not None:
                on_batch(indices, [texts[i] for i in indices])
            bar.update(len(indices))
    return texts


@dataclass(frozen=True)
class HuggingFace:
    """Answers by a model's own `generate`, under `steer`."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase

    def check(self, rows: Sequence[tuple[Steering, ...]], positions: str) -> None:
        """See `check_steering`."""
        check_steering(self.model, rows, positions)

    @torch.no_grad()
    def answers(
        self, questions: Sequence[Question], how: Decoding
    ) -> Iterator[tuple[list[int], list[list[int]]]]:
        """See `Generator`; one batch after the other."""
        model, pad = self.model, pad_id_of(self.tokenizer)
        device = model.get_input_embeddings().weight.device
        lengths = [len(one.prompt.ids) + how.max_new_tokens for one in questions]
        for indices in by_token_budget(lengths, how.batch_tokens):
            some = [questions[i] for i in indices]
            batch = collate([Turn(one.prompt) for one in some], device, "left", pad)
            rows = [one.parts for one in some]
            with (
                evaluating(model),
                steer_rows(model, rows, how.positions) if any(rows) else nullcontext(),
            ):
                output = model.generate(
                    input_ids=batch.input_ids,
                    attention_mask=batch.attention_mask,
                    **decoding(model, pad, how, [one.seed for one in some]),
                )
            yield indices, output[:, batch.input_ids.shape[1] :].tolist()


# What a model's own generation defaults may say: where a text ends, which tokens are no text (of
# pictures, for instance), and how keys and values are kept. `max_new_tokens` overrules its length.
_OWN_DEFAULTS = frozenset(
    {
        "bos_token_id",
        "eos_token_id",
        "pad_token_id",
        "decoder_start_token_id",
        "suppress_tokens",
        "begin_suppress_tokens",
        "bad_words_ids",
        "use_cache",
        "cache_implementation",
        "cache_config",
        "max_cache_len",
        "max_length",
        "return_legacy_cache",
        "transformers_version",
    }
)


def decoding(
    model: PreTrainedModel, pad_id: int, how: Decoding, seeds: Sequence[int]
) -> dict[str, Any]:
    """Arguments of `model.generate`, the same decoding whatever the model's own defaults.

    Of its defaults (`model.generation_config`) only these hold: its special tokens, the tokens that
    it must not write (`suppress_tokens`, `begin_suppress_tokens`, `bad_words_ids`), and its cache.

    Args:
        seeds: one per row, see `row_seed`.

    Raises:
        InputError: if temperature, top_k or top_p mean nothing.
    """
    check_sampling(how.temperature, how.top_k, how.top_p)
    options: dict[str, Any] = {
        **_neutral_for(model),
        "max_new_tokens": how.max_new_tokens,
        "pad_token_id": pad_id,
        # Sampling is done by the processor below, and these belong to transformers' own.
        "do_sample": False,
        "temperature": None,
        "top_k": None,
        "top_p": None,
    }
    if how.temperature > 0:
        sampler = RowSampler(how.temperature, seeds, how.top_k, how.top_p)
        options["logits_processor"] = LogitsProcessorList([sampler])
    return options


def _neutral_for(model: PreTrainedModel) -> dict[str, Any]:
    """Arguments that undo the defaults of a model which it may not have."""
    plain = GenerationConfig()
    # In transformers 5 they are None there, and filled in later.
    filled: dict[str, Any] = getattr(plain, "_get_default_generation_params", dict)()
    own = model.generation_config.to_dict()
    neutral = {
        name: filled.get(name) if value is None else value
        for name, value in plain.to_dict().items()
        if not name.startswith("_") and name not in _OWN_DEFAULTS
    }
    found = {name: value for name, value in neutral.items() if own.get(name) not in (None, value)}
    # Steered decoding is never compiled, and other decoding is to be rounded alike.
    return {**found, **({"disable_compile": True} if "disable_compile" in neutral else {})}


def _per_prompt(name: str, values: Any, count: int) -> list[Any]:
    """One entry per prompt, from one for all or from a sequence."""
    if values is None or isinstance(values, Entry):
        return [values] * count
    if len(values) != count:
        raise InputError(f"{name} has {len(values)} entries for {count} prompts; give one each")
    return list(values)
