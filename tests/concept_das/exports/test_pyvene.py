"""pyvene steers by an exported vector as `steer` does, and what it saved is read."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import pyvene as pv
import torch

from concept_das.errors import InputError, VectorMismatchError
from concept_das.exports import (
    from_pyvene,
    save_pyvene,
    to_gguf,
    to_lm_eval,
    to_pyvene,
)
from concept_das.steering.context import steer
from concept_das.steering.vector import SteeringVector
from interventions import (
    AdditiveIntervention,
    ClampIntervention,
    DistributedInterchangeIntervention,
)
from tests.concept_das.exports.vectors import (
    PREFIX,
    at_two_blocks,
    left_padded,
    make_vector,
    plain_logits,
    positions_of,
    steered_logits,
)
from tests.tiny import TINY_ARCHITECTURES, WIDTH, tiny_model

# pyvene 0.1.8 loads saved interventions on these only.
PYVENE_LOADS = ("llama", "gemma2", "qwen2", "gpt2")


def position_mask(inputs, prefix_length=PREFIX):
    real = inputs["attention_mask"]
    return (real.cumsum(dim=1) > prefix_length) & real.bool()


@torch.no_grad()
def pyvene_logits(steered, inputs, prefix_length=PREFIX):
    _, output = steered(
        {**inputs, "position_ids": positions_of(inputs)},
        unit_locations=None,
        intervention_additional_kwargs={"position_mask": position_mask(inputs, prefix_length)},
    )
    return output.logits[inputs["attention_mask"].bool()]


def training_intervention(model, folder, representation=None, **options):
    """Save a training intervention as a pyvene user would; returns it."""
    intervention = DistributedInterchangeIntervention(embed_dim=WIDTH, **options)
    component = make_vector(model).site(model).component
    default = {"component": component, "intervention": intervention}
    steered = pv.IntervenableModel(representation or default, model)
    steered.save(str(folder))
    return next(iter(steered.interventions.values()))


FACTORS: dict[str, Any] = {
    "negative_factor": torch.tensor([-1.0]),
    "positive_factor": torch.tensor([2.0]),
}


def intervened(model, component, intervention, folder):
    """Save any intervention at any place."""
    site = {"component": component, "intervention": intervention}
    pv.IntervenableModel(site, model).save(str(folder))


class _Touch:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("name", TINY_ARCHITECTURES)
@pytest.mark.parametrize("direction", ["elicit", "suppress"])
@pytest.mark.parametrize("operation", ["clamp", "add"])
def test_same_logits_as_steer(name, direction, operation):
    model, inputs = tiny_model(name), left_padded()
    vector = make_vector(model, rank=2, operation=operation)
    strength: dict[str, Any] = {
        "direction": direction,
        "multiplier": 1.5,
        "rule": "interpolate" if operation == "clamp" else "paper",
    }
    expected = steered_logits(model, vector, inputs, **strength)
    steered = pyvene_logits(to_pyvene(vector, model, **strength), inputs)
    torch.testing.assert_close(steered, expected, atol=1e-5, rtol=1e-5)
    assert (expected - plain_logits(model, inputs)).abs().max() > 0.1


@pytest.mark.parametrize("name", ["llama", "phi3"])
def test_generates_the_same_tokens_with_a_cache(name):
    model, inputs = tiny_model(name), left_padded()
    vector = make_vector(model)
    options = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 2}
    unsteered = model.generate(**inputs, **options)
    with steer(model, vector, direction="elicit"):
        expected = model.generate(**inputs, **options)
    _, ids = to_pyvene(vector, model, "elicit").generate(
        inputs,
        unit_locations=None,
        intervene_on_prompt=True,
        intervention_additional_kwargs={"position_mask": position_mask(inputs)},
        **options,
    )
    assert ids.tolist() == expected.tolist()
    assert ids.tolist() != unsteered.tolist()


@pytest.mark.parametrize("name", TINY_ARCHITECTURES)
def test_several_blocks(name):
    model, inputs = tiny_model(name), left_padded()
    vector = at_two_blocks(model)
    expected = steered_logits(model, vector, inputs, direction="suppress", multiplier=0.5)
    steered = pyvene_logits(to_pyvene(vector, model, "suppress", 0.5), inputs)
    torch.testing.assert_close(steered, expected, atol=1e-5, rtol=1e-5)


def test_refuses_a_vector_of_some_positions(tmp_path):
    model = tiny_model()
    vector = replace(make_vector(model, operation="add"), positions="p2+s2")
    for export in (
        lambda: to_pyvene(vector, model, "elicit"),
        lambda: to_lm_eval(vector, model, tmp_path / "vector.pt", "elicit"),
        lambda: to_gguf(vector, tmp_path / "vector.gguf"),
    ):
        with pytest.raises(InputError, match=r"edits the positions p2\+s2 and .* edits every"):
            export()


def test_refuses_another_model():
    vector = make_vector(tiny_model(seed=1))
    with pytest.raises(VectorMismatchError):
        to_pyvene(vector, tiny_model(seed=2), "elicit")


def test_several_blocks_come_back(tmp_path):
    model = tiny_model()
    vector = at_two_blocks(model)
    folder = save_pyvene(vector, model, tmp_path / "saved", "elicit")
    read = from_pyvene(folder, model, prefix_length=PREFIX)
    assert read.layers == vector.layers
    for found, wanted in zip(read.sites, vector.sites, strict=True):
        assert torch.equal(found.weight, wanted.weight)
        assert torch.equal(found.positive_factor, wanted.positive_factor)
    with pytest.raises(InputError, match="holds 2 interventions, and the factors given are"):
        from_pyvene(folder, model, **FACTORS)


@pytest.mark.parametrize("name", PYVENE_LOADS)
def test_pyvene_loads_it(name, tmp_path):
    model, inputs = tiny_model(name), left_padded()
    vector = make_vector(model, rank=2)
    save_pyvene(vector, model, tmp_path / "saved", "suppress", multiplier=2.0)
    loaded = pv.IntervenableModel.load(str(tmp_path / "saved"), model)
    expected = steered_logits(model, vector, inputs, direction="suppress", multiplier=2.0)
    torch.testing.assert_close(pyvene_logits(loaded, inputs), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", [n for n in TINY_ARCHITECTURES if n not in PYVENE_LOADS])
def test_refuses_where_pyvene_cannot_load(name, tmp_path):
    model = tiny_model(name)
    with pytest.raises(InputError, match=type(model).__name__):
        save_pyvene(make_vector(model), model, tmp_path / "saved", "elicit")
    assert not (tmp_path / "saved").exists()
    # What it would have written cannot be read back.
    to_pyvene(make_vector(model), model, "elicit").save(str(tmp_path / "saved"))
    with pytest.raises(KeyError):
        pv.IntervenableModel.load(str(tmp_path / "saved"), model)


def test_reads_a_clamp_back(tmp_path):
    model = tiny_model()
    vector = make_vector(model, rank=2, layer=2)
    save_pyvene(vector, model, tmp_path, "suppress", multiplier=0.5)
    read = from_pyvene(tmp_path, model, prefix_length=PREFIX)
    assert torch.equal(read.weight, vector.weight)
    for direction in ("elicit", "suppress"):
        assert torch.equal(read.target(direction), vector.target("suppress", 0.5))
    assert (read.layer, read.operation, read.prefix_length) == (2, "clamp", PREFIX)
    read.check_model(model)
    # Both factors are the one saved target, and can be saved all the same.
    again = SteeringVector.load(read.save(tmp_path / "vector"), model)
    assert torch.equal(again.target("suppress"), vector.target("suppress", 0.5))


def test_reads_an_addition_back(tmp_path):
    """Its directions have a length of their own."""
    model = tiny_model()
    vector = make_vector(model, rank=2, operation="add")
    vector = replace(vector, weight=3 * vector.weight)
    read = from_pyvene(save_pyvene(vector, model, tmp_path, "suppress", 0.5), model)
    assert read.operation == "add"
    assert torch.equal(read.weight, vector.weight)
    inputs, read = left_padded(), replace(read, prefix_length=PREFIX)
    expected = steered_logits(model, vector, inputs, direction="suppress", multiplier=0.5)
    found = steered_logits(model, read, inputs, direction="suppress")
    torch.testing.assert_close(found, expected)


def test_given_factors_replace_the_target_of_a_clamp(tmp_path):
    model = tiny_model()
    save_pyvene(make_vector(model), model, tmp_path, "elicit")
    read = from_pyvene(tmp_path, model, negative_factor=torch.tensor([-9.0]))
    assert read.target("suppress").tolist() == [-9.0]
    assert read.target("elicit").tolist() == [4.0]


@pytest.mark.parametrize("name", TINY_ARCHITECTURES)
def test_reads_a_training_intervention_on_every_architecture(name, tmp_path):
    model = tiny_model(name)
    trained = training_intervention(model, tmp_path)
    read = from_pyvene(tmp_path, model, **FACTORS)
    assert torch.equal(read.weight, trained.weight)
    assert read.site(model).component == make_vector(model).site(model).component
    assert (read.target("elicit").item(), read.target("suppress").item()) == (2.0, -1.0)


def test_reads_pyvenes_own_name_of_the_site(tmp_path):
    model = tiny_model()
    site = {
        "layer": 3,
        "component": "block_output",
        "low_rank_dimension": 1,
        "intervention_type": DistributedInterchangeIntervention,
    }
    trained = training_intervention(model, tmp_path, site)
    read = from_pyvene(tmp_path, model, **FACTORS)
    assert read.layer == 3
    assert torch.equal(read.weight, trained.weight)


def test_reads_a_dotted_path(tmp_path):
    model = tiny_model()
    clamp = ClampIntervention(weight=torch.eye(1, WIDTH))
    intervened(model, "model.layers.2.output", clamp, tmp_path)
    assert from_pyvene(tmp_path, model).layer == 2


def test_a_training_intervention_needs_factors(tmp_path):
    model = tiny_model()
    training_intervention(model, tmp_path)
    with pytest.raises(InputError, match="positive_factor"):
        from_pyvene(tmp_path, model, negative_factor=torch.tensor([1.0]))


def test_several_concepts_need_rows(tmp_path):
    model = tiny_model()
    options = {"low_rank_dimension": 3, "subspace_partition": [[0, 1], [1, 3]]}
    trained = training_intervention(model, tmp_path, **options)
    with pytest.raises(InputError, match="rows of one concept"):
        from_pyvene(tmp_path, model, **FACTORS)
    read = from_pyvene(tmp_path, model, rows=[0], **FACTORS)
    assert torch.equal(read.weight, trained.weight[[0]])
    with pytest.raises(InputError, match="out of range"):
        from_pyvene(tmp_path, model, rows=[3], **FACTORS)


@pytest.mark.parametrize("component", ["model.layers[1].mlp.output", "model.layers[1].input"])
def test_refuses_other_sites(component, tmp_path):
    model = tiny_model()
    intervened(model, component, ClampIntervention(weight=torch.eye(1, WIDTH)), tmp_path)
    with pytest.raises(InputError, match="decoder block"):
        from_pyvene(tmp_path, model)


def test_refuses_a_layer_the_model_does_not_have(tmp_path):
    model = tiny_model()
    training_intervention(model, tmp_path)
    edit_config(tmp_path, "layers[1]", "layers[7]")
    with pytest.raises(InputError, match="out of range"):
        from_pyvene(tmp_path, model, **FACTORS)


def test_refuses_other_interventions(tmp_path):
    model = tiny_model()
    other = pv.LowRankRotatedSpaceIntervention(embed_dim=WIDTH, low_rank_dimension=1)
    intervened(model, "model.layers[1].output", other, tmp_path)
    with pytest.raises(InputError, match="LowRankRotatedSpaceIntervention"):
        from_pyvene(tmp_path, model)


def test_refuses_interventions_of_several_kinds(tmp_path):
    model = tiny_model()
    sites = [
        {"component": f"model.layers[{layer}].output", "intervention": kind(embed_dim=WIDTH)}
        for layer, kind in ((1, ClampIntervention), (2, AdditiveIntervention))
    ]
    pv.IntervenableModel(sites, model).save(str(tmp_path))
    with pytest.raises(InputError, match="holds interventions of 2 kinds; save one kind"):
        from_pyvene(tmp_path, model)


def test_refuses_another_width(tmp_path):
    model = tiny_model()
    training_intervention(model, tmp_path)
    torch.save({"weight": torch.eye(1, 2 * WIDTH)}, tensors_of(tmp_path))
    with pytest.raises(InputError, match=f"width {2 * WIDTH}"):
        from_pyvene(tmp_path, model, **FACTORS)


def test_never_unpickles_objects(tmp_path):
    model = tiny_model()
    training_intervention(model, tmp_path)
    marker = tmp_path / "executed"
    torch.save({"weight": _Touch(marker)}, tensors_of(tmp_path))
    with pytest.raises(InputError, match="never loaded"):
        from_pyvene(tmp_path, model, **FACTORS)
    assert not marker.exists()
    torch.load(tensors_of(tmp_path), weights_only=False)
    assert marker.exists()  # the file was a trap indeed


def test_names_what_is_damaged(tmp_path):
    model = tiny_model()
    with pytest.raises(InputError, match=r"no config\.json"):
        from_pyvene(tmp_path, model)
    training_intervention(model, tmp_path)
    file = tensors_of(tmp_path)
    file.write_bytes(file.read_bytes()[:200])
    with pytest.raises(InputError, match="damaged"):
        from_pyvene(tmp_path, model, **FACTORS)
    torch.save({"bias": torch.zeros(1)}, file)
    with pytest.raises(InputError, match="no weight"):
        from_pyvene(tmp_path, model, **FACTORS)
    file.unlink()
    with pytest.raises(InputError, match="missing"):
        from_pyvene(tmp_path, model, **FACTORS)
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(InputError, match="not pyvene's"):
        from_pyvene(tmp_path, model)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(InputError, match="not valid JSON"):
        from_pyvene(tmp_path, model)


def tensors_of(folder: Path) -> Path:
    return next(folder.glob("intkey_*.bin"))


def edit_config(folder: Path, old: str, new: str) -> None:
    config = json.loads((folder / "config.json").read_text())
    site = config["representations"][0]
    assert old in site[1]
    site[1] = site[1].replace(old, new)
    (folder / "config.json").write_text(json.dumps(config))
