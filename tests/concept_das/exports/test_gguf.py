"""Control vectors of llama.cpp, written and read."""

import sys
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from concept_das.errors import InputError
from concept_das.exports import (
    from_gguf,
    to_gguf,
)
from concept_das.models.blocks import capture, find_site
from concept_das.steering.context import steer
from tests.concept_das.exports.vectors import (
    PREFIX,
    left_padded,
    make_vector,
    plain_logits,
    steered_logits,
)
from tests.tiny import LAYERS, WIDTH, tiny_model

gguf = pytest.importorskip("gguf")


def write(path, directions, architecture="controlvector"):
    writer = gguf.GGUFWriter(path, architecture)
    for name, values in directions.items():
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_the_number_is_that_of_the_block_whose_output_moves(tmp_path):
    model, inputs = tiny_model(), left_padded()
    vector = make_vector(model, rank=2, operation="add", layer=2)
    path = to_gguf(vector, tmp_path / "vector.gguf", "suppress", 1.5)
    reader = gguf.GGUFReader(path)
    (tensor,) = reader.tensors
    number = int(tensor.name.removeprefix("direction."))
    assert tensor.tensor_type == gguf.GGMLQuantizationType.F32
    expected = torch.from_numpy(np.array(tensor.data))
    options: dict[str, Any] = {"direction": "suppress", "multiplier": 1.5, "prefix_length": 0}
    for block in range(LAYERS):
        site = find_site(model, block)
        with capture(model, site) as before:
            plain_logits(model, inputs)
        # The edit's hook runs first: it is the older one.
        with steer(model, vector, **options), capture(model, site) as after:
            plain_logits(model, inputs)
        moved = (after[0] - before[0])[inputs["attention_mask"].bool()]
        if block < number:
            assert not moved.any()
        if block == number:
            torch.testing.assert_close(moved, expected.expand_as(moved), atol=1e-5, rtol=1e-5)


def test_several_blocks(tmp_path):
    model = tiny_model()
    low, high = (make_vector(model, operation="add", layer=layer) for layer in (1, 2))
    both = replace(low, sites=(*low.sites, *high.sites))
    path = to_gguf(both, tmp_path / "vector.gguf", "elicit")
    for vector in (low, high):
        read = from_gguf(path, model, vector.layer)
        torch.testing.assert_close(read.weight, 4 * vector.weight)


def test_the_fields_are_those_that_readers_look_for(tmp_path):
    model = tiny_model("qwen2")
    reader = gguf.GGUFReader(to_gguf(make_vector(model, operation="add"), tmp_path / "vector.gguf"))

    def text(key):
        return bytes(reader.get_field(key).parts[-1]).decode()

    assert text("general.architecture") == "controlvector"
    assert text("controlvector.model_hint") == "qwen2"
    assert reader.get_field("controlvector.layer_count").parts[-1].tolist() == [1]


def test_reads_back_what_it_wrote(tmp_path):
    model, inputs = tiny_model("phi3"), left_padded()
    vector = make_vector(model, operation="add")
    path = to_gguf(vector, tmp_path / "vector.gguf", "elicit", 2.0)
    read = from_gguf(path, model, prefix_length=PREFIX)
    expected = steered_logits(model, vector, inputs, direction="elicit", multiplier=2.0)
    torch.testing.assert_close(
        steered_logits(model, read, inputs, direction="elicit"), expected, atol=1e-5, rtol=1e-5
    )
    assert torch.equal(
        read.target("suppress") @ read.weight, -(read.target("elicit") @ read.weight)
    )


def test_one_layer_of_several(tmp_path):
    model = tiny_model()
    rows = {f"direction.{i}": np.full(WIDTH, i, dtype=np.float32) for i in (1, 3)}
    path = write(tmp_path / "vector.gguf", rows)
    with pytest.raises(InputError, match=r"\[1, 3\]"):
        from_gguf(path, model)
    read = from_gguf(path, model, layer=3)
    assert read.layer == 3
    assert read.weight.tolist() == [[3.0] * WIDTH]


def test_refuses_a_clamp(tmp_path):
    with pytest.raises(InputError, match="can only add"):
        to_gguf(make_vector(tiny_model()), tmp_path / "vector.gguf")


def test_refuses_block_zero(tmp_path):
    vector = make_vector(tiny_model(), operation="add", layer=0)
    with pytest.raises(InputError, match="block 0"):
        to_gguf(vector, tmp_path / "vector.gguf")


def test_refuses_files_that_are_not_control_vectors(tmp_path):
    model = tiny_model()
    with pytest.raises(InputError, match="no file"):
        from_gguf(tmp_path / "missing.gguf", model)
    (tmp_path / "text.gguf").write_text("not a GGUF file at all")
    with pytest.raises(InputError, match="not a GGUF file"):
        from_gguf(tmp_path / "text.gguf", model)
    whole = to_gguf(make_vector(model, operation="add"), tmp_path / "vector.gguf")
    (tmp_path / "cut.gguf").write_bytes(whole.read_bytes()[:-40])
    with pytest.raises(InputError, match="truncated"):
        from_gguf(tmp_path / "cut.gguf", model)
    row = {"direction.1": np.ones(WIDTH, dtype=np.float32)}
    with pytest.raises(InputError, match="not a control vector"):
        from_gguf(write(tmp_path / "model.gguf", row, "llama"), model)


def test_refuses_directions_that_do_not_fit(tmp_path):
    model = tiny_model()
    wide = {"direction.1": np.ones(2 * WIDTH, dtype=np.float32)}
    with pytest.raises(InputError, match=f"width {2 * WIDTH}"):
        from_gguf(write(tmp_path / "wide.gguf", wide), model)
    half = {"direction.1": np.ones(WIDTH, dtype=np.float16)}
    with pytest.raises(InputError, match="not float32"):
        from_gguf(write(tmp_path / "half.gguf", half), model)
    deep = {"direction.9": np.ones(WIDTH, dtype=np.float32)}
    with pytest.raises(InputError, match="out of range"):
        from_gguf(write(tmp_path / "deep.gguf", deep), model)


def test_gguf_files_need_the_gguf_package(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(InputError, match="pip install"):
        to_gguf(make_vector(tiny_model(), operation="add"), tmp_path / "vector.gguf")
