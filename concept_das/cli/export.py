"""`concept-das export`."""

import logging
from pathlib import Path
from typing import Literal

from concept_das.cli.options import ModelOptions
from concept_das.errors import InputError
from concept_das.words import Direction, Rule

log = logging.getLogger(__name__)

# Formats of several files, with the beginning of a name that marks a folder as one of theirs.
FOLDERS = {"pyvene": "intkey_", "peft": "adapter_"}


def export(
    vector: str,
    out: Path,
    format: Literal["pyvene", "lm-eval", "gguf", "peft"],
    loading: ModelOptions,
    direction: Direction = "elicit",
    multiplier: float = 1.0,
    rule: Rule = "paper",
) -> None:
    """Write what a method left behind in another tool's format, at a fixed strength.

    Args:
        vector: folder of a saved vector, or another name as steer takes.
        out: folder (pyvene) or file (.pt for lm-eval, .gguf) to write.
        format: pyvene (IntervenableModel.load), lm-eval (its steered model), gguf (llama.cpp
            control vector, additive vectors only) or peft (a LoRA, at multiplier 1).
        direction: elicit or suppress.
        multiplier: strength, without unit; 1 is the measured factor.
        rule: paper or interpolate; see evaluate.
    """
    from concept_das import SteeringVector, exports, load_vector
    from concept_das.methods.lora import Adapter
    from concept_das.runs.files import check_writable

    check_writable(out / "config.json" if format in FOLDERS else out)
    if format in FOLDERS and out.is_dir():
        names = [path.name for path in out.iterdir()]
        if names and not any(name.startswith(FOLDERS[format]) for name in names):
            raise InputError(f"{out} holds other files; name a folder of its own to write")
    if format == "peft":
        adapter = load_vector(vector)
        if not isinstance(adapter, Adapter):
            raise InputError(f"{vector} holds no LoRA; the peft format takes what lora trained")
        if (direction, multiplier, rule) != ("elicit", 1.0, "paper"):
            raise InputError("peft takes a LoRA as it is; leave direction, multiplier and rule out")
        exports.to_peft(adapter, out)
        log.info("%s written for peft", out)
        return
    saved = SteeringVector.load(vector)
    if format == "gguf":
        exports.to_gguf(saved, out, direction, multiplier, rule)
    else:
        model = loading.load_for(saved).model
        write = exports.save_pyvene if format == "pyvene" else exports.to_lm_eval
        write(saved, model, out, direction, multiplier, rule)
    log.info("%s written for %s", out, format)
