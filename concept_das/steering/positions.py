"""The tokens that are steered: chosen by the vector, and by the call that steers.

Positions are written as `all` (the prompt and every new token, as the CDAS paper does), `prompt`,
`generated`, or, as PrOSV does (arXiv 2605.05983), the first and last tokens of the prompt: `p2+s2`,
`p4`, `s2`. The template prefix is never among them and is not counted.
"""

import inspect
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel

from concept_das.data.chat_format import Prompt
from concept_das.errors import InputError
from concept_das.models.blocks import decoder_of


@dataclass(frozen=True)
class Span:
    """The tokens behind the template prefix that an edit changes.

    Attributes:
        first: tokens at the start of the prompt; None for the whole prompt.
        last: tokens at the end of the prompt.
        generated: true if the tokens after the prompt are edited too.
    """

    first: int | None = None
    last: int = 0
    generated: bool = True

    def touches(
        self, positions: Int[Tensor, "*rows width"], start: Tensor, stop: Tensor
    ) -> Bool[Tensor, "rows width"]:
        """True at the tokens that are edited.

        Args:
            positions: index of each token in its row, padding not counted.
            start, stop: where the prompt's own text begins and where the prompt ends, `[rows, 1]`.
        """
        in_prompt = positions < stop
        chosen = in_prompt & (positions >= stop - self.last)
        chosen |= in_prompt if self.first is None else in_prompt & (positions < start + self.first)
        chosen = chosen & (positions >= start)
        return chosen | ~in_prompt if self.generated else chosen

    def mask(self, prompts: Sequence[Prompt], width: int) -> Bool[Tensor, "rows width"] | None:
        """True at the tokens of a right-padded batch that are edited; None if it is all of them.

        Args:
            width: tokens of the longest row, the response included.
        """
        if self == EVERYWHERE:
            return None
        start = torch.tensor([[prompt.prefix_length] for prompt in prompts])
        stop = torch.tensor([[len(prompt.ids)] for prompt in prompts])
        return self.touches(torch.arange(width).expand(len(prompts), -1), start, stop)


EVERYWHERE = Span()

_NAMED = {"all": EVERYWHERE, "prompt": Span(generated=False), "generated": Span(first=0)}


def parse_positions(text: str) -> Span:
    """The span that a word stands for, see the module.

    Raises:
        InputError: if it stands for none.
    """
    if text in _NAMED:
        return _NAMED[text]
    ends = re.fullmatch(r"(?:p([1-9]\d*))?\+?(?:s([1-9]\d*))?", text)
    if not ends or text.startswith("+") or text.endswith("+") or not any(ends.groups()):
        raise InputError(
            f"unknown positions {text!r}; choose all, prompt or generated, or the first and last "
            "tokens of the prompt, such as p2+s2"
        )
    return Span(int(ends[1] or 0), int(ends[2] or 0), generated=False)


def _per_row(values: Tensor, batch: int) -> Tensor:
    """One entry per batch row: broadcast a single one, repeat for several returned sequences."""
    if values.shape[0] == 1:
        return values
    if batch % values.shape[0]:
        raise InputError(
            f"steering was given for {values.shape[0]} rows but the batch has {batch}; give one "
            "entry per row"
        )
    return values.repeat_interleave(batch // values.shape[0], dim=0)


class _PositionSelection:
    """Selects the tokens of the current forward pass that are steered.

    Positions are counted over a row's own tokens, so padding and caching change nothing.
    """

    def __init__(
        self,
        positions: str,
        prefixes: Sequence[int],
        prompt_lengths: Sequence[int] | None,
        needs_ends: bool,
    ) -> None:
        self.name = positions
        self.span = parse_positions(positions)
        self.needs_ends = needs_ends or self.span != EVERYWHERE
        self.prefixes = torch.tensor(prefixes)
        self.prompt_lengths = None if prompt_lengths is None else torch.tensor(prompt_lengths)
        self._positions: Int[Tensor, "batch positions"] | None = None
        self._real: Bool[Tensor, "batch positions"] | None = None
        self._after_prompt = False

    @contextmanager
    def watching(self, model: PreTrainedModel) -> Iterator[None]:
        """Read positions and masks off every call of the model's decoder."""
        decoder = decoder_of(model)
        signature = inspect.signature(decoder.forward)

        def before(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            self._read(signature.bind_partial(*args, **kwargs).arguments)

        handle = decoder.register_forward_pre_hook(before, with_kwargs=True)
        try:
            with self._watching_generate(model):
                yield
        finally:
            handle.remove()

    @contextmanager
    def _watching_generate(self, model: PreTrainedModel) -> Iterator[None]:
        """Note where the prompts end when `generate` is called."""
        if not self.needs_ends or self.prompt_lengths is not None:
            yield
            return
        original, own = model.generate, vars(model).get("generate")

        def generate(inputs: Tensor | None = None, *args: Any, **kwargs: Any) -> Any:
            prompt = inputs if inputs is not None else kwargs.get("input_ids")
            prompt = prompt if prompt is not None else kwargs["inputs_embeds"]
            mask = kwargs.get("attention_mask")
            width = torch.full((prompt.shape[0],), prompt.shape[1])
            self.prompt_lengths = width if mask is None else mask.sum(dim=1).cpu()
            try:
                return original(inputs, *args, **kwargs)
            finally:
                self.prompt_lengths = None

        model.generate = generate
        try:
            yield
        finally:
            del model.generate
            if own is not None:  # of the user, or of a surrounding block
                model.generate = own

    def _read(self, call: dict[str, Any]) -> None:
        tokens = call.get("input_ids")
        tokens = tokens if tokens is not None else call["inputs_embeds"]
        batch, width = tokens.shape[0], tokens.shape[1]
        mask = call.get("attention_mask")
        mask = mask if isinstance(mask, Tensor) and mask.dim() == 2 else None
        self._real = None if mask is None else mask[:, -width:].bool()
        positions = call.get("position_ids")
        if positions is None and mask is not None:
            positions = mask.long().cumsum(dim=1)[:, -width:] - 1
        elif positions is None:
            cache: Any = call.get("past_key_values")
            start = cache.get_seq_length() if hasattr(cache, "get_seq_length") else 0
            positions = torch.arange(start, start + width, device=tokens.device).unsqueeze(0)
        self._positions = positions.expand(batch, width)
        if self.prompt_lengths is not None:
            stops = _per_row(self.prompt_lengths, batch).reshape(-1, 1)
            self._after_prompt = bool((self._positions.cpu() >= stops).all())

    def mask_for(
        self,
        hidden: Float[Tensor, "batch positions dim"],
        spans: Sequence[Span],
        protects_prefix: bool = True,
    ) -> Bool[Tensor, "batch positions"] | None:
        """True where the current pass is to be steered; None if that is nowhere.

        Args:
            spans: of the edit, one for all rows or one for each.
            protects_prefix: see `ModuleEdit`.
        """
        assert self._positions is not None
        device, batch = hidden.device, hidden.shape[0]
        positions = self._positions.to(device)
        prefixes = _per_row(self.prefixes, batch).to(device).reshape(-1, 1)
        start = prefixes if protects_prefix else torch.zeros_like(prefixes)
        chosen = (positions >= start).expand(batch, -1)
        if self._real is not None:
            chosen = chosen & self._real.to(device)
        if {self.span, *spans} == {EVERYWHERE}:
            return chosen
        if self.prompt_lengths is None:
            what = "this vector" if self.span == EVERYWHERE else f"positions={self.name!r}"
            raise InputError(f"{what} needs prompt_lengths when the model is called directly")
        if self._after_prompt and not any(self.span.generated and s.generated for s in spans):
            return None
        stop = _per_row(self.prompt_lengths, batch).to(device).reshape(-1, 1)
        for span in dict.fromkeys(spans):
            own = torch.tensor([other == span for other in spans])
            own = _per_row(own, batch).to(device).reshape(-1, 1)
            for one in {span, self.span} - {EVERYWHERE}:
                begin = start if one.first is None else prefixes
                chosen = chosen & (one.touches(positions, begin, stop) | ~own)
        return chosen
