"""The tokens of a forward pass that are steered."""

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel

from concept_das.errors import InputError
from concept_das.models.blocks import decoder_of
from concept_das.words import Positions


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
        mode: Positions,
        prefixes: Sequence[int],
        prompt_lengths: Sequence[int] | None,
        needs_ends: bool,
    ) -> None:
        self.mode = mode
        self.needs_ends = needs_ends or mode != "all"
        self.prefixes = torch.tensor(prefixes)
        self.prompt_lengths = None if prompt_lengths is None else torch.tensor(prompt_lengths)
        self._positions: Int[Tensor, "batch positions"] | None = None
        self._real: Bool[Tensor, "batch positions"] | None = None

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

    def mask_for(
        self,
        hidden: Float[Tensor, "batch positions dim"],
        ends: tuple[int, int] | None = None,
        protects_prefix: bool = True,
    ) -> Bool[Tensor, "batch positions"]:
        """True where the current pass is to be steered; see `ModuleEdit` for the arguments."""
        assert self._positions is not None
        device, batch = hidden.device, hidden.shape[0]
        positions = self._positions.to(device)
        prefixes = _per_row(self.prefixes, batch).to(device).reshape(-1, 1)
        chosen = positions >= (prefixes if protects_prefix else 0)
        if self._real is not None:
            chosen = chosen & self._real.to(device)
        if self.mode == "all" and ends is None:
            return chosen.expand(batch, -1)
        if self.prompt_lengths is None:
            what = f"positions={self.mode!r}" if ends is None else "this vector"
            raise InputError(f"{what} needs prompt_lengths when the model is called directly")
        stops = _per_row(self.prompt_lengths, batch).to(device).reshape(-1, 1)
        if self.mode != "all":
            chosen = chosen & (positions < stops if self.mode == "prompt" else positions >= stops)
        if ends is not None:
            first, last = ends
            near = (positions < prefixes + first) | (positions >= stops - last)
            chosen = chosen & near & (positions < stops)
        return chosen
