"""The tokens that are steered: chosen by the vector, and by the call that steers.

Positions are written as `all` (the prompt and every new token, as the CDAS paper does), `prompt`,
`generated`, or, as PrOSV does (arXiv 2605.05983), the first and last tokens of the prompt: `p2+s2`,
`p4`, `s2`. The template prefix is never among them and is not counted.
"""

import inspect
import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel

from concept_das.data.chat_format import Turn
from concept_das.errors import InputError
from concept_das.models.blocks import decoder_of
from concept_das.steering.generate_calls import watching_generate


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

    def meets(self, other: "Span") -> bool:
        """False if there is no prompt of which both edit a token; True if there may be one."""
        of_prompt = [span.first != 0 or span.last > 0 for span in (self, other)]
        return all(of_prompt) or (self.generated and other.generated)

    def mask(self, turns: Sequence[Turn]) -> Bool[Tensor, "rows edited"] | None:
        """True at the tokens behind the template prefix that are edited; None if it is all of them.

        Args:
            turns: rows of a right-padded batch, which share the template prefix.
        """
        if self == EVERYWHERE:
            return None
        prefix, width = turns[0].prompt.prefix_length, max(len(turn.ids) for turn in turns)
        start = torch.tensor([[prefix]] * len(turns))
        stop = torch.tensor([[len(turn.prompt.ids)] for turn in turns])
        return self.touches(torch.arange(prefix, width).expand(len(turns), -1), start, stop)


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


def _mask_of_tokens(mask: Any, batch: int, width: int) -> Tensor | None:
    """An attention mask if it is one flag per token, `[batch, past and current tokens]`."""
    fits = isinstance(mask, Tensor) and mask.dim() == 2
    return mask if fits and len(mask) == batch and mask.shape[1] >= width else None


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
        self.given = None if prompt_lengths is None else torch.tensor(prompt_lengths)
        self.prompt_lengths = self.given
        self.passes = 0
        self._generating = 0
        self._outer_mask: Tensor | None = None
        self._positions: Int[Tensor, "batch positions"] | None = None
        self._real: Bool[Tensor, "batch positions"] | None = None
        self._after_prompt = False

    @contextmanager
    def watching(self, model: PreTrainedModel) -> Iterator[None]:
        """Read positions and masks off every call of the model and of its decoder."""
        decoder = decoder_of(model)
        signature = inspect.signature(decoder.forward)

        def outside(_module: nn.Module, _args: Any, kwargs: dict[str, Any]) -> None:
            # Models of several modalities give their decoder no mask of tokens.
            self._outer_mask = kwargs.get("attention_mask")

        def before(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            self._read(signature.bind_partial(*args, **kwargs).arguments)

        def after(*_: Any) -> None:
            self.passes += 1

        with ExitStack() as stack:
            for hook in (
                model.register_forward_pre_hook(outside, with_kwargs=True),
                decoder.register_forward_pre_hook(before, with_kwargs=True),
                decoder.register_forward_hook(after),
            ):
                stack.callback(hook.remove)
            stack.enter_context(watching_generate(model, self))
            yield

    def begin(self, prompts: int | None, lengths: Tensor | None) -> None:
        """Take note of a `generate` call, see `Watcher`.

        Raises:
            InputError: if there is not one entry for each prompt.
        """
        if prompts is not None:
            self._check_rows(prompts, "prompts")
        self._generating += 1
        if self.given is None:
            self.prompt_lengths = lengths

    def end(self) -> None:
        """The call is over."""
        self._generating -= 1
        self.prompt_lengths = self.given

    def _check_rows(self, count: int, what: str) -> None:
        rows = len(self.prefixes)
        if rows not in (1, count):
            raise InputError(
                f"steering was given for {rows} rows but the batch has {count} {what}; give one "
                "entry for each, or one for all"
            )

    def _read(self, call: dict[str, Any]) -> None:
        tokens = call.get("input_ids")
        tokens = tokens if tokens is not None else call["inputs_embeds"]
        batch, width = tokens.shape[0], tokens.shape[1]
        if not self._generating:
            self._check_rows(batch, "rows")
        mask = _mask_of_tokens(call.get("attention_mask"), batch, width)
        if mask is None:
            mask = _mask_of_tokens(self._outer_mask, batch, width)
        self._outer_mask = None
        self._real = None if mask is None else mask[:, -width:].bool()
        positions = call.get("position_ids")
        if mask is not None:  # before position_ids, which need not count tokens
            positions = mask.long().cumsum(dim=1)[:, -width:] - 1
        elif not isinstance(positions, Tensor) or positions.dim() != 2:
            cache: Any = call.get("past_key_values")
            start = cache.get_seq_length() if hasattr(cache, "get_seq_length") else 0
            positions = torch.arange(start, start + width, device=tokens.device).unsqueeze(0)
        self._positions = positions.expand(batch, width)
        if self._generating and self.needs_ends and self.prompt_lengths is None:
            # The first pass of a call without a mask: transformers may have made one.
            self.prompt_lengths = self._positions[:, -1].cpu() + 1
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

    def prompt_tokens(
        self, hidden: Float[Tensor, "batch positions dim"]
    ) -> Bool[Tensor, "batch positions"] | None:
        """True at the prompts' tokens behind the template prefix; None in a pass after theirs.

        Raises:
            InputError: if the pass has the beginning of a prompt but not its end, or it is not
                known where prompts end.
        """
        assert self._positions is not None
        device, batch = hidden.device, hidden.shape[0]
        positions = self._positions.to(device)
        real = torch.ones_like(positions) if self._real is None else self._real.to(device)
        if not bool(((positions == 0) & real.bool()).any()):
            return None
        if self.prompt_lengths is None:
            raise InputError("a condition needs prompt_lengths when the model is called directly")
        start = _per_row(self.prefixes, batch).to(device).reshape(-1, 1)
        stop = _per_row(self.prompt_lengths, batch).to(device).reshape(-1, 1)
        if not bool((positions == stop - 1).any(dim=1).all()):
            raise InputError(
                "a condition is read off the whole prompt, and a pass had only a part of one; give "
                "the model each prompt in one pass"
            )
        return real.bool() & _NAMED["prompt"].touches(positions, start, stop)
