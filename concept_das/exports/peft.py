"""LoRA adapters in peft's own format."""

import os
from pathlib import Path

from safetensors.torch import save as to_safetensors

from concept_das.errors import InputError
from concept_das.methods.lora import Adapter
from concept_das.runs.files import write_atomically


def to_peft(adapter: Adapter, folder: str | os.PathLike[str]) -> Path:
    """Write what `peft.PeftModel.from_pretrained(model, folder)` reads; it steers at multiplier 1.

    Args:
        folder: gets `adapter_config.json` and `adapter_model.safetensors`.

    Raises:
        InputError: if peft is not installed.
    """
    try:
        import peft
    except ImportError as error:
        raise InputError('this export needs peft; run `pip install "concept-das[peft]"`') from error
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    config = peft.LoraConfig(
        r=adapter.rank,
        lora_alpha=round(adapter.scale * adapter.rank),
        target_modules=list(adapter.lora),
        task_type="CAUSAL_LM",
        base_model_name_or_path=adapter.model.name,
    )
    config.save_pretrained(str(target))
    blob = to_safetensors(
        {f"base_model.model.{name}": value for name, value in adapter.tensors().items()}
    )
    write_atomically(target / "adapter_model.safetensors", blob)
    return target
