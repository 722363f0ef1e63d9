"""Find the sites of interventions, the outputs of decoder blocks, from the model itself.

Blocks are looked up in the model's own module tree, not in a table of architectures, and addressed
by the string path that pyvene accepts for every architecture (`model.layers[15].output`).
"""

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedModel

from concept_das.errors import InputError
from concept_das.models.weights import unwrapped


@dataclass(frozen=True)
class Site:
    """The residual stream after one decoder block.

    Attributes:
        layer: block index, 0-based.
        path: module path of the block in pyvene's form, without `.output`.
        width: size of the hidden states there.
        n_layers: number of blocks of the model.
    """

    layer: int
    path: str
    width: int
    n_layers: int

    @property
    def component(self) -> str:
        """pyvene's name of the site, for `{"component": ...}`."""
        return f"{self.path}.output"

    @property
    def module_name(self) -> str:
        """The block's path in torch's form, `model.layers.15`."""
        return self.path.replace("[", ".").replace("]", "")

    def module(self, model: nn.Module) -> nn.Module:
        """The block itself."""
        return model.get_submodule(self.module_name)

    def check_width(self, width: int, source: object) -> None:
        """Make sure that directions of a file fit the hidden states.

        Raises:
            InputError: if they do not.
        """
        if width != self.width:
            raise InputError(
                f"{source} holds directions of width {width} and the blocks of this model have "
                f"{self.width}, so it belongs to another model; load that one"
            )

    def blocks_below(self, model: nn.Module) -> list[nn.Module]:
        """The blocks from the first to the site's own."""
        blocks = model.get_submodule(self.path[: self.path.rindex("[")])
        assert isinstance(blocks, nn.ModuleList)
        return list(blocks[: self.layer + 1])


def find_site(model: PreTrainedModel, layer: int) -> Site:
    """The output of decoder block `layer` (0-based; negative counts from the end).

    Raises:
        InputError: if the layer is out of range, or the model is no decoder-only transformer with
            a recognisable list of blocks.
    """
    _check_kind(model)
    config = model.config.get_text_config()
    n_layers: int = config.num_hidden_layers
    if not -n_layers <= layer < n_layers:
        raise InputError(
            f"layer {layer} is out of range: {type(model).__name__} has {n_layers} blocks, "
            f"0 to {n_layers - 1}"
        )
    layer %= n_layers
    name = _block_list_name(model, n_layers)
    return Site(layer, f"{name}[{layer}]", config.hidden_size, n_layers)


def find_blocks(
    model: PreTrainedModel, layers: Sequence[int] | Literal["spread"]
) -> tuple[int, ...]:
    """The blocks that are meant, 0-based, from the lowest.

    Args:
        layers: block indices, negative ones count from the end; or `spread`, see `spread_blocks`.

    Raises:
        InputError: if a block is given twice, or the model is not that deep.
    """
    if layers == "spread":
        return spread_blocks(find_site(model, 0).n_layers)
    blocks = sorted(find_site(model, layer).layer for layer in layers)
    if len(set(blocks)) < len(blocks):
        raise InputError("a layer is given twice; name each once")
    return tuple(blocks)


def spread_blocks(n_layers: int) -> tuple[int, ...]:
    """Eight blocks at 20%, 30%, ... 90% of the depth; fewer where blocks would coincide.

    Of 30 blocks these are 6, 9, ... 27.
    """
    return tuple(sorted({n_layers * tenths // 10 for tenths in range(2, 10)}))


def decoder_of(model: nn.Module) -> nn.Module:
    """The part of the model below the head: blocks and final norm."""
    inner = unwrapped(model)
    decoder = inner.get_decoder() if hasattr(inner, "get_decoder") else None
    # Where a model does not say (GPT-2), some transformers answer with the whole of it.
    if not isinstance(decoder, nn.Module) or decoder is inner:
        decoder = inner.base_model
    assert isinstance(decoder, nn.Module)
    # And a model of pictures and text, with a language model that has a head of its own.
    if decoder is not inner and _holds_head(inner, decoder):
        return decoder_of(decoder)
    return decoder


def _holds_head(model: Any, part: nn.Module) -> bool:
    head = model.get_output_embeddings()
    return head is not None and any(module is head for module in part.modules())


def _check_kind(model: PreTrainedModel) -> None:
    """Refuse models in which an edit at a block would act on other tokens than those it is for."""
    kind = type(unwrapped(model)).__name__
    if model.config.is_encoder_decoder:
        raise InputError(f"{kind} has an encoder and a decoder; pass a decoder-only transformer")
    taken = inspect.signature(decoder_of(model).forward).parameters
    if "past_key_values" not in taken and ("cache_params" in taken or "state" in taken):
        raise InputError(
            f"{kind} keeps a state in place of keys and values and does not say where a token "
            "stands while it generates; pass a transformer"
        )


def _block_list_name(model: PreTrainedModel, n_layers: int) -> str:
    """Name of the outermost `ModuleList` with one entry per decoder block."""
    inside = {id(module) for module in decoder_of(model).modules()}
    names = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) == n_layers and id(module) in inside
    ]
    if not names:
        raise InputError(
            f"no list of {n_layers} decoder blocks found in {type(model).__name__}; "
            "pass a decoder-only transformer"
        )
    return min(names, key=lambda name: name.count("."))


def hidden_of(output: Any) -> Float[Tensor, "batch positions dim"]:
    """The hidden states in a block's output: a tensor (transformers 5) or a tuple's first item."""
    hidden = output if isinstance(output, Tensor) else output[0]
    assert isinstance(hidden, Tensor)
    return hidden


def replace_hidden(output: Any, hidden: Tensor) -> Any:
    """A block's output with other hidden states, in the form the block gave it."""
    return hidden if isinstance(output, Tensor) else (hidden, *output[1:])


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Without dropout and the like inside the block; afterwards as before."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


class _SiteReached(Exception):  # noqa: N818 (a signal, not an error)
    """Stops a forward pass once the wanted hidden states are there."""


@contextmanager
def capture(model: nn.Module, site: Site) -> Iterator[list[Tensor]]:
    """Collect the site's hidden states of every forward pass inside the block.

    Yields:
        A list that gains one detached `[batch, positions, dim]` tensor per forward pass.
    """
    seen: list[Tensor] = []
    block = site.module(model)
    with block.register_forward_hook(lambda *call: seen.append(hidden_of(call[-1]).detach())):
        yield seen


@torch.no_grad()
def hidden_states_at(
    model: PreTrainedModel, site: Site, **inputs: Tensor
) -> Float[Tensor, "batch positions dim"]:
    """The site's hidden states for one batch; blocks above the site are not run.

    Args:
        inputs: arguments of the model's forward (`input_ids`, `attention_mask`, ...).
    """
    reached: list[Tensor] = []

    def stop(_module: nn.Module, _args: Any, output: Any) -> None:
        reached.append(hidden_of(output).clone())
        raise _SiteReached

    with suppress(_SiteReached), site.module(model).register_forward_hook(stop):
        model(**inputs, use_cache=False)
    return reached[0]
