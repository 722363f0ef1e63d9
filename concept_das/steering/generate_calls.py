"""Tell every block that steers a model when `generate` is called, and let one thread steer at once.

The blocks of one model share one wrapper around its `generate`, so they may be left in any order.
"""

import copy
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from torch import Tensor
from transformers import GenerationConfig, GenerationMixin, PreTrainedModel

from concept_das.errors import InputError


@runtime_checkable
class Watcher(Protocol):
    """Is told of the calls of `generate` while it watches."""

    def begin(self, prompts: int | None, lengths: Tensor | None) -> None:
        """A call begins.

        Args:
            prompts: number of its prompts; None if it cannot be told.
            lengths: tokens of each prompt, padding not counted; None if no mask was given.
        """

    def end(self) -> None:
        """The call is over."""


@dataclass
class _Watched:
    """A model that blocks steer: by which thread, and who is told of its calls."""

    thread: int
    own: Any  # a `generate` that the user put on the model itself
    watchers: list[Watcher] = field(default_factory=list)


_WATCHED: "weakref.WeakKeyDictionary[PreTrainedModel, _Watched]" = weakref.WeakKeyDictionary()
_LOCK = threading.Lock()


@contextmanager
def watching_generate(model: PreTrainedModel, watcher: Watcher) -> Iterator[None]:
    """Tell the watcher of the model's `generate` calls inside the block.

    Raises:
        InputError: if another thread steers the model; its hooks would edit this thread's passes.
    """
    with _LOCK:
        watched = _WATCHED.get(model)
        if watched is None:
            watched = _Watched(threading.get_ident(), vars(model).get("generate"))
            original = model.generate
            _WATCHED[model] = watched
            model.generate = _telling(watched, original)
        elif watched.thread != threading.get_ident():
            raise InputError(
                "another thread steers this model; steer in one thread at a time, or load the "
                "model once for each"
            )
        watched.watchers.append(watcher)
    try:
        yield
    finally:
        with _LOCK:
            watched.watchers.remove(watcher)
            if not watched.watchers:
                del _WATCHED[model], model.generate
                if watched.own is not None:
                    model.generate = watched.own


def _telling(watched: _Watched, original: Any) -> Any:
    is_transformers_own = getattr(original, "__func__", None) is GenerationMixin.generate

    def generate(*args: Any, **kwargs: Any) -> Any:
        prompts = args[0] if args else kwargs.get("inputs", kwargs.get("input_ids"))
        prompts = kwargs.get("inputs_embeds") if prompts is None else prompts
        mask = kwargs.get("attention_mask")
        lengths = None if not isinstance(mask, Tensor) else mask.sum(dim=1).cpu()
        watchers = list(watched.watchers)
        for watcher in watchers:
            watcher.begin(None if prompts is None else len(prompts), lengths)
        try:
            return original(*args, **(_uncompiled(kwargs) if is_transformers_own else kwargs))
        finally:
            for watcher in watchers:
                watcher.end()

    return generate


def _uncompiled(kwargs: dict[str, Any]) -> dict[str, Any]:
    """Arguments of `generate` by which transformers does not compile the steps of decoding.

    It does so for static caches on a GPU, from its own idea; what it compiles has no hooks.
    """
    if not hasattr(GenerationConfig(), "disable_compile"):
        return kwargs
    if kwargs.get("generation_config") is None:
        return {**kwargs, "disable_compile": True}
    config = copy.deepcopy(kwargs["generation_config"])
    config.disable_compile = True
    return {**kwargs, "generation_config": config}
