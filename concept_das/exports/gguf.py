"""Additive steering vectors as GGUF control vectors, which llama.cpp reads.

The file has `general.architecture = "controlvector"`, `controlvector.model_hint`,
`controlvector.layer_count` and one float32 tensor `direction.{i}` per block.

Which block is i? The one whose output the direction is added to, 0-based as in `Site.layer`:

- llama.cpp: common/common.cpp puts `direction.{i}` at `n_embd * (i - 1)` and rejects i = 0;
  src/llama-adapter.cpp copies the data at `n_embd * (il - 1)` to `tensors[il]` ("there's never a
  tensor for layer 0"); src/models/llama.cpp adds `tensors[il]` after the residual sum that ends
  block il of 0 .. n - 1, just before it is named `l_out`. So nothing reaches block 0.
- repeng 0.4.0 writes `direction.{layer}` for its 0-based layer, whose directions come from
  `hidden_states[layer + 1]`, the output of that block.
- Measured: llama.cpp with a file of `to_gguf` for block 15 of SmolLM2-135M-Instruct (Q4_1) against
  `steer` on the de-quantised model, KL of the next token: 0.005 to steering block 15, 0.11 to 14,
  0.60 to 16 (0.03 between the two when neither is steered).

(llama.cpp's own cvector-generator names the difference of the outputs of block i - 1
`direction.{i}`: applied, it acts one block later than it was measured.)
"""

import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from concept_das.errors import InputError
from concept_das.models.blocks import find_site
from concept_das.runs.files import write_atomically
from concept_das.steering.vector import ModelIdentity, Rule, SteeringVector
from concept_das.words import Direction

_ARCHITECTURE = "controlvector"


def to_gguf(
    vector: SteeringVector,
    path: str | os.PathLike[str],
    direction: Direction = "elicit",
    multiplier: float = 1.0,
    rule: Rule = "paper",
) -> Path:
    """Write a control vector for llama.cpp (`--control-vector FILE`).

    The strength is in the file; `--control-vector-scaled FILE SCALE` multiplies it. llama.cpp adds
    it at every position, the template prefix included, as `steer(model, vector, prefix_length=0)`
    does.

    Args:
        vector: a vector that adds, of any rank, at one or several blocks.
        direction, multiplier, rule: see `SteeringVector.target`.

    Raises:
        InputError: if the vector clamps (how far a clamp moves a hidden state depends on where it
            is; a control vector is the same everywhere), edits some positions only, or acts at
            block 0, which llama.cpp leaves alone.
    """
    if vector.operation != "add":
        raise InputError(
            "this vector clamps, and a control vector can only add; train one that adds, or use "
            "to_pyvene or to_lm_eval"
        )
    vector.require_every_position("llama.cpp")
    if vector.layers[0] == 0:
        raise InputError(
            "this vector acts at block 0, which llama.cpp does not steer; train one for a later "
            "layer"
        )
    gguf = _library()
    targets = vector.targets(direction, multiplier, rule)
    offsets = {
        at.layer: (target.float().cpu() @ at.weight.detach().float().cpu()).numpy()
        for at, target in zip(vector.sites, targets, strict=True)
    }
    hint = vector.model.architecture.removesuffix("ForCausalLM").removesuffix("LMHeadModel")
    with tempfile.TemporaryDirectory() as scratch:
        part = Path(scratch) / "vector.gguf"
        writer = gguf.GGUFWriter(part, _ARCHITECTURE)
        writer.add_string(f"{_ARCHITECTURE}.model_hint", hint.lower())
        writer.add_uint32(f"{_ARCHITECTURE}.layer_count", len(offsets))
        for layer, offset in offsets.items():
            writer.add_tensor(f"direction.{layer}", offset)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        write_atomically(Path(path), part.read_bytes())
    return Path(path)


def from_gguf(
    path: str | os.PathLike[str],
    model: PreTrainedModel,
    layer: int | None = None,
    *,
    prefix_length: int = 0,
) -> SteeringVector:
    """Read one layer of a control vector as a vector that adds: +1 elicits, -1 suppresses.

    The file does not say which model it was trained on: the given one is taken at its word.

    Args:
        layer: index of the block whose direction to take; may be left out if the file holds one.
        prefix_length: template tokens to leave alone; llama.cpp steers them.

    Raises:
        InputError: if the file is not a control vector, does not have the layer or does not fit the
            model.
    """
    directions = _read_directions(Path(path))
    if layer is None and len(directions) == 1:
        layer = next(iter(directions))
    if layer not in directions:
        raise InputError(
            f"{path} has directions for the layers {sorted(directions)}; pass one of them as layer"
        )
    site = find_site(model, layer)
    weight = torch.from_numpy(directions[layer]).unsqueeze(0)
    site.check_width(weight.shape[1], path)
    return SteeringVector(
        weight=weight,
        negative_factor=torch.tensor([-1.0]),
        positive_factor=torch.tensor([1.0]),
        layer=site.layer,
        model=ModelIdentity.of(model),
        operation="add",
        prefix_length=prefix_length,
    )


def _read_directions(path: Path) -> dict[int, np.ndarray]:
    """Layer to direction, `[dim]`."""
    gguf = _library()
    if not path.exists():
        raise InputError(f"there is no file {path}")
    try:
        reader = gguf.GGUFReader(path)
    except (ValueError, IndexError) as error:  # no magic number; cut off
        raise InputError(f"{path} is not a GGUF file, or is truncated: {error}") from error
    field = reader.get_field("general.architecture")
    if field is None or bytes(field.parts[-1]).decode() != _ARCHITECTURE:
        raise InputError(f"{path} is not a control vector; a model is loaded with load_model")
    directions = {}
    for tensor in reader.tensors:
        kind, _, layer = tensor.name.partition(".")
        if kind == "direction" and layer.isdecimal():
            if tensor.tensor_type != gguf.GGMLQuantizationType.F32:
                raise InputError(f"{tensor.name} in {path} is not float32; write it unquantised")
            directions[int(layer)] = np.array(tensor.data)
    return directions


def _library() -> Any:
    """The optional gguf package."""
    try:
        import gguf
    except ImportError as error:
        raise InputError(
            "GGUF files need the gguf package; pip install 'concept-das[gguf]'"
        ) from error
    return gguf
