"""The weights that a model computes with, whatever it is wrapped in.

A compiled model, a PEFT model and a model whose weights wait on the CPU or the disk give the same
names and values as the plain one. An active LoRA adapter counts as part of the matrix it adapts, so
that a model means the same before and after its adapter is merged.
"""

import re
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from concept_das.errors import InputError

# Names that torch.compile and PEFT put into the path of a parameter.
_WRAPPERS = re.compile(r"(?<![^.])(_orig_mod|base_layer|original_module)\.")


@dataclass(frozen=True)
class Weight:
    """One parameter, or an active adapter's part that belongs to no single parameter.

    Attributes:
        name: its path in the model without wrappers.
        module: the module that holds it.
        attribute: its name there.
        added: PEFT's layer and the names of its adapters whose product is added to it, if any.
        of_adapter: true if it is an adapter's own.
    """

    name: str
    module: nn.Module
    attribute: str
    added: tuple[Any, tuple[str, ...]] | None = None
    of_adapter: bool = False

    @property
    def shape(self) -> torch.Size:
        """The parameter's shape."""
        shape = getattr(self.module, self.attribute).shape
        assert isinstance(shape, torch.Size)
        return shape

    @property
    def is_plain(self) -> bool:
        """False if it is quantised, so that its numbers are not those of the unquantised model."""
        parameter = getattr(self.module, self.attribute)
        return (
            type(parameter) is nn.Parameter
            and parameter.is_floating_point()
            and parameter.dtype.itemsize > 1
        )

    @torch.no_grad()
    def values(self, taken: slice) -> Tensor:
        """Some values, in the order of the flattened parameter, as bfloat16.

        Raises:
            InputError: if the model's weights were never loaded.
        """
        with _at_hand(self.module, self.attribute):
            own = getattr(self.module, self.attribute).detach()
            if own.is_meta:
                raise InputError(
                    f"{self.name} has no values: the model is on the meta device; load its weights"
                )
            found = own.reshape(-1)[taken]
            if self.added is not None:
                layer, adapters = self.added
                found = found.clone()
                for adapter in adapters:
                    found += layer.get_delta_weight(adapter).reshape(-1)[taken].to(found.device)
            return found.to(torch.bfloat16).cpu()


def plain_name(name: str) -> str:
    """A path in a model, without the parts that wrappers put there."""
    return _WRAPPERS.sub("", name)


def unwrapped(model: Any) -> Any:
    """The model itself, out of torch.compile's and PEFT's wrappers."""
    while True:
        if hasattr(model, "_orig_mod"):
            model = model._orig_mod
        elif hasattr(model, "get_base_model"):
            model = model.get_base_model()
        else:
            return model


def weights_of(model: nn.Module, *, add_adapters: bool = True) -> dict[str, Weight]:
    """Every weight that takes part in a forward pass, once, by its name without wrappers.

    Args:
        add_adapters: count active LoRA adapters as part of the matrices; else they stand alone.
    """
    found: dict[str, Weight] = {}
    seen: set[int] = set()
    inner = unwrapped(model)
    for weight in _walk(inner, "", add_adapters):
        parameter = getattr(weight.module, weight.attribute)
        if id(parameter) not in seen:
            seen.add(id(parameter))
            found[weight.name] = weight
    if inner is not model:  # a learned prompt of PEFT is beside the model and not in it
        for module_name, module in model.named_modules():
            if "prompt_encoder" in module_name.split("."):
                found |= {weight.name: weight for weight in _own(module, module_name, True)}
    return found


def _walk(module: Any, path: str, add_adapters: bool) -> Iterator[Weight]:
    if hasattr(module, "base_layer") and hasattr(module, "active_adapters"):
        yield from _adapted(module, path, add_adapters)
    elif hasattr(module, "original_module") and hasattr(module, "modules_to_save"):
        active = [] if module.disable_adapters else list(module.active_adapters)
        chosen = [name for name in active if name in module.modules_to_save]
        copy = module.modules_to_save[chosen[0]] if chosen else module.original_module
        yield from _walk(copy, path, add_adapters)
    else:
        yield from _own(module, path)
        for name, child in module.named_children():
            yield from _walk(child, f"{path}{name}.", add_adapters)


def _own(module: nn.Module, path: str, of_adapter: bool = False) -> Iterator[Weight]:
    for name, _ in module.named_parameters(recurse=False):
        yield Weight(plain_name(path + name), module, name, of_adapter=of_adapter)


def _adapted(layer: Any, path: str, add: bool) -> Iterator[Weight]:
    """A layer of PEFT: the base layer, and what its active adapters add."""
    off = layer.disable_adapters
    active = [a for a in layer.active_adapters if not off and a not in layer.merged_adapters]
    products = tuple(name for name in active if add and _is_product(layer, name))
    for weight in _walk(layer.base_layer, path, add):
        if products and weight.attribute == "weight" and weight.module is layer.get_base_layer():
            yield Weight(weight.name, weight.module, "weight", (layer, products))
        else:
            yield weight
    for name, module in layer.named_modules():
        if name.split(".")[0] == "base_layer":
            continue
        for weight in _own(module, f"{path}{name}." if name else path, True):
            parts = weight.name.removeprefix(plain_name(path)).split(".")
            if any(a in parts for a in active if a not in products):
                yield weight


def _is_product(layer: Any, adapter: str) -> bool:
    """True if an adapter is a plain LoRA: what it adds to the weight is all that it does."""
    matrices = (getattr(layer, "lora_A", ()), getattr(layer, "lora_embedding_A", ()))
    return (
        any(adapter in of_adapters for of_adapters in matrices)
        and adapter not in getattr(layer, "lora_variant", {})
        and not getattr(layer, "use_dora", {}).get(adapter)
        and not getattr(layer, "lora_bias", {}).get(adapter)
        and not hasattr(layer, "parameter_name")
    )


def _at_hand(module: nn.Module, attribute: str) -> Any:
    """Bring a weight that accelerate keeps elsewhere onto the CPU inside the block."""
    if not getattr(module, attribute).is_meta or not hasattr(module, "_hf_hook"):
        return nullcontext()
    from accelerate.utils import align_module_device

    return align_module_device(module, torch.device("cpu"))
