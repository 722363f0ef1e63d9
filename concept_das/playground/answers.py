"""The two answers to a prompt, token by token: one of the model itself, one of the steered model.

Both are rows of one batch, so they take little longer than one, and `generate_responses` gives the
same texts for the same two rows.
"""

import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Any

import torch
from torch import Tensor
from transformers import StoppingCriteriaList
from transformers.generation.streamers import BaseStreamer

from concept_das.data.batches import collate, pad_id_of
from concept_das.data.chat_format import ChatFormat, Prompt, Turn
from concept_das.errors import InputError
from concept_das.models.blocks import evaluating
from concept_das.models.loading import LoadedModel
from concept_das.playground.settings import Setting
from concept_das.steering.artifact import Artifact
from concept_das.steering.context import Steering, Together, steer
from concept_das.steering.generation import Decoding, decoding
from concept_das.steering.sampling import row_seed


@dataclass(frozen=True)
class Pair:
    """Both answers, or as much of them as is there.

    Attributes:
        prompt: the prompt that the unsteered model read.
        steered_prompt: the prompt that the steered model read; another one if it steers with text.
        unsteered, steered: ids of the answers, without the token that ends them.
    """

    prompt: Prompt
    steered_prompt: Prompt
    unsteered: tuple[int, ...] = ()
    steered: tuple[int, ...] = ()


@dataclass
class Playground:
    """A model with its vectors, which answers one prompt at a time.

    Attributes:
        vectors: by the names that `load_vector` finds them by.
        loading: arguments of `load_model` beside the model's name, for the code.
        allow_other_weights: see `load_vector`.
    """

    loaded: LoadedModel
    chat: ChatFormat
    vectors: Mapping[str, Artifact]
    loading: Mapping[str, Any] = field(default_factory=dict)
    allow_other_weights: bool = False
    _stop: threading.Event = field(default_factory=threading.Event)
    _worker: threading.Thread | None = None

    def steering(self, setting: Setting) -> list[Steering]:
        """The vectors that are not switched off.

        Raises:
            InputError: if a vector cannot steer in its direction.
        """
        entries = [
            Steering(self.vectors[name], way.direction, way.multiplier)
            for name, way in setting.strengths.items()
            if way.multiplier != 0
        ]
        for entry in entries:
            entry.check()
        return entries

    def prompts(self, setting: Setting) -> tuple[Prompt, Prompt]:
        """The prompt as it is, and as the steered model reads it.

        Raises:
            InputError: if it is empty, or does not fit the model's context with its answer.
        """
        setting.check()
        prompt = steered = self.chat.prompt(setting.prompt)
        entries = self.steering(setting)
        together(entries)
        for entry in entries:
            steered = entry.prompt(steered)
        limit = self.loaded.max_positions
        longest = max(len(prompt.ids), len(steered.ids)) + setting.max_new_tokens
        if limit is not None and longest > limit:
            raise InputError(
                f"the prompt needs {longest} tokens with its answer but the model takes {limit}; "
                "shorten it, or ask for a shorter answer"
            )
        return prompt, steered

    def answers(self, setting: Setting) -> Iterator[Pair]:
        """Both answers as they grow, one token at a time; an answer before them is stopped.

        Raises:
            InputError: if the setting cannot be answered.
        """
        self.stop()
        prompt, steered_prompt = self.prompts(setting)
        pair = Pair(prompt, steered_prompt)
        yield pair
        tokens = _Tokens()
        stop = self._stop = threading.Event()
        arguments = (setting, pair, tokens, stop)
        worker = threading.Thread(target=self._generate, args=arguments, daemon=True)
        self._worker = worker
        worker.start()
        try:
            grown: tuple[list[int], list[int]] = ([], [])
            ended = [False, False]
            while (step := tokens.queue.get()) is not None:
                if isinstance(step, Exception):
                    raise step
                for row, token in enumerate(step):
                    ended[row] |= token in self._ends
                    if not ended[row]:
                        grown[row].append(token)
                yield Pair(prompt, steered_prompt, tuple(grown[0]), tuple(grown[1]))
        finally:  # these answers only: they may have been left long ago
            stop.set()
            worker.join()

    def stop(self) -> None:
        """End the answers that are being written, if there are any, where they are."""
        self._stop.set()
        if self._worker is not None:
            self._worker.join()

    def text(self, ids: tuple[int, ...]) -> str:
        """An answer as `generate_responses` returns it."""
        return str(self.loaded.tokenizer.decode(ids, skip_special_tokens=True)).strip()

    @property
    def _ends(self) -> set[int]:
        """The tokens that end an answer."""
        ends = self.loaded.model.generation_config.eos_token_id
        return set() if ends is None else {ends} if isinstance(ends, int) else set(ends)

    def _generate(
        self, setting: Setting, pair: Pair, tokens: "_Tokens", stop: threading.Event
    ) -> None:
        """Write both answers into the queue, in a thread of their own."""
        model, pad = self.loaded.model, pad_id_of(self.loaded.tokenizer)

        def stopped(input_ids: Tensor, *_: Any, **__: Any) -> Tensor:
            return torch.full((len(input_ids),), stop.is_set(), device=input_ids.device)

        try:
            rows = [Turn(pair.prompt), Turn(pair.steered_prompt)]
            batch = collate(rows, self.loaded.device, "left", pad)
            entry = together(self.steering(setting))
            seeds = [row_seed(setting.seed, 0)] * 2  # with the same noise
            how = Decoding(setting.positions, setting.max_new_tokens, setting.temperature)
            with evaluating(model), steer(model, [None, entry], positions=setting.positions):
                model.generate(
                    input_ids=batch.input_ids,
                    attention_mask=batch.attention_mask,
                    stopping_criteria=StoppingCriteriaList([stopped]),
                    streamer=tokens,
                    **decoding(model, pad, how, seeds),
                )
        except Exception as error:  # raised again where it is seen
            tokens.queue.put(error)
        tokens.queue.put(None)


def together(entries: Sequence[Steering]) -> Together | None:
    """The entry of `steer` for a row: all that steers inside the model; None if nothing does.

    Raises:
        InputError: if they cannot steer one row.
    """
    inside = [entry for entry in entries if not entry.vector.is_text]
    return Together(*inside) if inside else None


class _Tokens(BaseStreamer):
    """Hands the new tokens of both rows from one thread to another."""

    def __init__(self) -> None:
        self.queue: SimpleQueue[list[int] | Exception | None] = SimpleQueue()

    def put(self, value: Tensor) -> None:
        """Take a step's tokens, one a row; the prompts, which come first, have two dimensions."""
        if value.dim() == 1:
            self.queue.put(value.tolist())

    def end(self) -> None:
        """The end is told by the thread, errors included."""
