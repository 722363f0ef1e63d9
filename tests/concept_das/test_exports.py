"""Vectors in other tools' formats: the other tool must steer as `steer` does, or be refused."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pyvene as pv
import torch

from concept_das.errors import InputError, VectorMismatchError
from concept_das.exports import (
    from_gguf,
    from_pyvene,
    save_pyvene,
    to_gguf,
    to_lm_eval,
    to_pyvene,
)
from concept_das.models.blocks import capture, find_site
from concept_das.steering.context import steer
from concept_das.steering.vector import ModelIdentity, SteeringVector
from interventions import (
    AdditiveIntervention,
    ClampIntervention,
    DistributedInterchangeIntervention,
    orthonormal_rows,
)
from tests.tiny import LAYERS, TINY_ARCHITECTURES, WIDTH, tiny_model, tiny_tokenizer

PREFIX = 3
# pyvene 0.1.8 loads saved interventions on these only.
PYVENE_LOADS = ("llama", "gemma2", "qwen2", "gpt2")


def make_vector(model, rank=1, operation="clamp", layer=1, prefix_length=PREFIX):
    weight = orthonormal_rows(torch.randn(rank, WIDTH))
    return SteeringVector(
        weight=weight if operation == "clamp" else 3 * weight,
        negative_factor=-torch.arange(1.0, rank + 1),
        positive_factor=4 * torch.arange(1.0, rank + 1),
        layer=layer,
        model=ModelIdentity.of(model),
        operation=operation,
        prefix_length=prefix_length,
    )


def left_padded():
    """Two rows of 9 and 6 tokens."""
    tokens = torch.randint(3, 60, (2, 9))
    mask = torch.ones_like(tokens)
    mask[1, :3] = 0
    return {"input_ids": tokens, "attention_mask": mask}


def position_mask(inputs, prefix_length=PREFIX):
    real = inputs["attention_mask"]
    return (real.cumsum(dim=1) > prefix_length) & real.bool()


def positions_of(inputs):
    return (inputs["attention_mask"].cumsum(dim=1) - 1).clamp(min=0)


@torch.no_grad()
def plain_logits(model, inputs):
    logits = model(**inputs, position_ids=positions_of(inputs)).logits
    return logits[inputs["attention_mask"].bool()]


def steered_logits(model, vector, inputs, **options):
    with steer(model, vector, **options):
        return plain_logits(model, inputs)


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


def at_two_blocks(model, **fields):
    """A vector with other directions and factors at each of two blocks."""
    low, high = make_vector(model, layer=1), make_vector(model, layer=2)
    high = replace(high.sites[0], positive_factor=high.positive_factor + 0.5)
    return replace(low, sites=(low.sites[0], high), **fields)


class TestToPyvene:
    @pytest.mark.parametrize("name", TINY_ARCHITECTURES)
    @pytest.mark.parametrize("direction", ["elicit", "suppress"])
    @pytest.mark.parametrize("operation", ["clamp", "add"])
    def test_same_logits_as_steer(self, name, direction, operation):
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
    def test_generates_the_same_tokens_with_a_cache(self, name):
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
    def test_several_blocks(self, name):
        model, inputs = tiny_model(name), left_padded()
        vector = at_two_blocks(model)
        expected = steered_logits(model, vector, inputs, direction="suppress", multiplier=0.5)
        steered = pyvene_logits(to_pyvene(vector, model, "suppress", 0.5), inputs)
        torch.testing.assert_close(steered, expected, atol=1e-5, rtol=1e-5)

    def test_refuses_a_vector_of_some_positions(self, tmp_path):
        model = tiny_model()
        vector = replace(make_vector(model, operation="add"), positions="p2+s2")
        for export in (
            lambda: to_pyvene(vector, model, "elicit"),
            lambda: to_lm_eval(vector, model, tmp_path / "vector.pt", "elicit"),
            lambda: to_gguf(vector, tmp_path / "vector.gguf"),
        ):
            with pytest.raises(InputError, match=r"edits the positions p2\+s2 and .* edits every"):
                export()

    def test_refuses_another_model(self):
        vector = make_vector(tiny_model(seed=1))
        with pytest.raises(VectorMismatchError):
            to_pyvene(vector, tiny_model(seed=2), "elicit")


class TestSavePyvene:
    def test_several_blocks_come_back(self, tmp_path):
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
    def test_pyvene_loads_it(self, name, tmp_path):
        model, inputs = tiny_model(name), left_padded()
        vector = make_vector(model, rank=2)
        save_pyvene(vector, model, tmp_path / "saved", "suppress", multiplier=2.0)
        loaded = pv.IntervenableModel.load(str(tmp_path / "saved"), model)
        expected = steered_logits(model, vector, inputs, direction="suppress", multiplier=2.0)
        torch.testing.assert_close(pyvene_logits(loaded, inputs), expected, atol=1e-5, rtol=1e-5)

    @pytest.mark.parametrize("name", [n for n in TINY_ARCHITECTURES if n not in PYVENE_LOADS])
    def test_refuses_where_pyvene_cannot_load(self, name, tmp_path):
        model = tiny_model(name)
        with pytest.raises(InputError, match=type(model).__name__):
            save_pyvene(make_vector(model), model, tmp_path / "saved", "elicit")
        assert not (tmp_path / "saved").exists()
        # What it would have written cannot be read back.
        to_pyvene(make_vector(model), model, "elicit").save(str(tmp_path / "saved"))
        with pytest.raises(KeyError):
            pv.IntervenableModel.load(str(tmp_path / "saved"), model)


class TestFromPyvene:
    def test_reads_a_clamp_back(self, tmp_path):
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

    def test_reads_an_addition_back(self, tmp_path):
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

    def test_given_factors_replace_the_target_of_a_clamp(self, tmp_path):
        model = tiny_model()
        save_pyvene(make_vector(model), model, tmp_path, "elicit")
        read = from_pyvene(tmp_path, model, negative_factor=torch.tensor([-9.0]))
        assert read.target("suppress").tolist() == [-9.0]
        assert read.target("elicit").tolist() == [4.0]

    @pytest.mark.parametrize("name", TINY_ARCHITECTURES)
    def test_reads_a_training_intervention_on_every_architecture(self, name, tmp_path):
        model = tiny_model(name)
        trained = training_intervention(model, tmp_path)
        read = from_pyvene(tmp_path, model, **FACTORS)
        assert torch.equal(read.weight, trained.weight)
        assert read.site(model).component == make_vector(model).site(model).component
        assert (read.target("elicit").item(), read.target("suppress").item()) == (2.0, -1.0)

    def test_reads_pyvenes_own_name_of_the_site(self, tmp_path):
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

    def test_reads_a_dotted_path(self, tmp_path):
        model = tiny_model()
        intervention = ClampIntervention(weight=torch.eye(1, WIDTH))
        site = {"component": "model.layers.2.output", "intervention": intervention}
        pv.IntervenableModel(site, model).save(str(tmp_path))
        assert from_pyvene(tmp_path, model).layer == 2

    def test_a_training_intervention_needs_factors(self, tmp_path):
        model = tiny_model()
        training_intervention(model, tmp_path)
        with pytest.raises(InputError, match="positive_factor"):
            from_pyvene(tmp_path, model, negative_factor=torch.tensor([1.0]))

    def test_several_concepts_need_rows(self, tmp_path):
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
    def test_refuses_other_sites(self, component, tmp_path):
        model = tiny_model()
        intervention = ClampIntervention(weight=torch.eye(1, WIDTH))
        site = {"component": component, "intervention": intervention}
        pv.IntervenableModel(site, model).save(str(tmp_path))
        with pytest.raises(InputError, match="decoder block"):
            from_pyvene(tmp_path, model)

    def test_refuses_a_layer_the_model_does_not_have(self, tmp_path):
        model = tiny_model()
        training_intervention(model, tmp_path)
        self.edit_config(tmp_path, "layers[1]", "layers[7]")
        with pytest.raises(InputError, match="out of range"):
            from_pyvene(tmp_path, model, **FACTORS)

    def test_refuses_other_interventions(self, tmp_path):
        model = tiny_model()
        other = pv.LowRankRotatedSpaceIntervention(embed_dim=WIDTH, low_rank_dimension=1)
        site = {"component": "model.layers[1].output", "intervention": other}
        pv.IntervenableModel(site, model).save(str(tmp_path))
        with pytest.raises(InputError, match="LowRankRotatedSpaceIntervention"):
            from_pyvene(tmp_path, model)

    def test_refuses_interventions_of_several_kinds(self, tmp_path):
        model = tiny_model()
        sites = [
            {"component": f"model.layers[{layer}].output", "intervention": kind(embed_dim=WIDTH)}
            for layer, kind in ((1, ClampIntervention), (2, AdditiveIntervention))
        ]
        pv.IntervenableModel(sites, model).save(str(tmp_path))
        with pytest.raises(InputError, match="holds interventions of 2 kinds; save one kind"):
            from_pyvene(tmp_path, model)

    def test_refuses_another_width(self, tmp_path):
        model = tiny_model()
        training_intervention(model, tmp_path)
        torch.save({"weight": torch.eye(1, 2 * WIDTH)}, self.tensors(tmp_path))
        with pytest.raises(InputError, match=f"width {2 * WIDTH}"):
            from_pyvene(tmp_path, model, **FACTORS)

    def test_never_unpickles_objects(self, tmp_path):
        model = tiny_model()
        training_intervention(model, tmp_path)
        marker = tmp_path / "executed"
        torch.save({"weight": _Touch(marker)}, self.tensors(tmp_path))
        with pytest.raises(InputError, match="never loaded"):
            from_pyvene(tmp_path, model, **FACTORS)
        assert not marker.exists()
        torch.load(self.tensors(tmp_path), weights_only=False)
        assert marker.exists()  # the file was a trap indeed

    def test_names_what_is_damaged(self, tmp_path):
        model = tiny_model()
        with pytest.raises(InputError, match=r"no config\.json"):
            from_pyvene(tmp_path, model)
        training_intervention(model, tmp_path)
        file = self.tensors(tmp_path)
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

    @staticmethod
    def tensors(folder: Path) -> Path:
        return next(folder.glob("intkey_*.bin"))

    @staticmethod
    def edit_config(folder: Path, old: str, new: str) -> None:
        config = json.loads((folder / "config.json").read_text())
        site = config["representations"][0]
        assert old in site[1]
        site[1] = site[1].replace(old, new)
        (folder / "config.json").write_text(json.dumps(config))


class _Touch:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


class TestToLmEval:
    @pytest.mark.parametrize("name", ["llama", "phi3", "gpt2"])
    @pytest.mark.parametrize(("operation", "rank"), [("clamp", 1), ("add", 1), ("add", 2)])
    def test_lm_eval_steers_as_steer_without_a_prefix(self, name, operation, rank, tmp_path):
        hf_steered = pytest.importorskip("lm_eval.models.hf_steered")
        model = tiny_model(name)
        vector = make_vector(model, rank, operation)
        strength: dict[str, Any] = {"direction": "elicit", "multiplier": 0.7}
        path = to_lm_eval(vector, model, tmp_path / "vector.pt", **strength)
        evaluated = hf_steered.SteeredModel(
            pretrained=model, steer_path=str(path), tokenizer=tiny_tokenizer(), device="cpu"
        )
        tokens = torch.randint(3, 60, (2, 9))
        inputs = {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}
        with torch.no_grad():
            logits = evaluated._model_call(tokens).flatten(0, 1)
        everywhere = steered_logits(model, vector, inputs, prefix_length=0, **strength)
        torch.testing.assert_close(logits, everywhere, atol=1e-5, rtol=1e-5)
        # What is not equivalent: the template prefix.
        protected = steered_logits(model, vector, inputs, **strength)
        assert (logits - protected).abs().max() > 0.1

    def test_several_blocks(self, tmp_path):
        model = tiny_model("gpt2")
        vector = at_two_blocks(model)
        path = to_lm_eval(vector, model, tmp_path / "vector.pt", "suppress")
        entries = torch.load(path, weights_only=True)
        assert list(entries) == [f"h.{layer}" for layer in vector.layers]
        for entry, at in zip(entries.values(), vector.sites, strict=True):
            assert torch.equal(entry["steering_vector"], at.weight[0])
            assert entry["steering_coefficient"] == float(at.negative_factor[0])

    def test_the_file_holds_tensors_under_the_name_of_the_block(self, tmp_path):
        model = tiny_model("gpt2")
        vector = make_vector(model, layer=2)
        path = to_lm_eval(vector, model, tmp_path / "vector.pt", "suppress", 2.0)
        ((hookpoint, entry),) = torch.load(path, weights_only=True).items()
        assert model.base_model.get_submodule(hookpoint) is model.transformer.h[2]
        assert entry["action"] == "clamp"
        assert torch.equal(entry["steering_vector"], vector.weight[0])
        assert entry["steering_coefficient"] == -2.0
        assert entry["bias"] is None
        assert entry["head_index"] is None

    def test_refuses_a_clamp_of_several_directions(self, tmp_path):
        model = tiny_model()
        with pytest.raises(InputError, match="one direction per module"):
            to_lm_eval(make_vector(model, rank=2), model, tmp_path / "vector.pt", "elicit")

    def test_refuses_what_lm_eval_would_normalise(self, tmp_path):
        model = tiny_model()
        vector = SteeringVector(
            weight=2 * torch.eye(1, WIDTH),
            negative_factor=torch.zeros(1),
            positive_factor=torch.ones(1),
            layer=1,
            model=ModelIdentity.of(model),
        )
        with pytest.raises(InputError, match="length 2"):
            to_lm_eval(vector, model, tmp_path / "vector.pt", "elicit")

    def test_refuses_a_name_that_lm_eval_does_not_read(self, tmp_path):
        model = tiny_model()
        with pytest.raises(InputError, match=r"\.pth"):
            to_lm_eval(make_vector(model), model, tmp_path / "vector.bin", "elicit")

    def test_refuses_another_model(self, tmp_path):
        vector = make_vector(tiny_model(seed=1))
        with pytest.raises(VectorMismatchError):
            to_lm_eval(vector, tiny_model(seed=2), tmp_path / "vector.pt", "elicit")


class TestGguf:
    @pytest.fixture(autouse=True)
    def library(self):
        self.gguf = pytest.importorskip("gguf")

    def write(self, path, directions, architecture="controlvector"):
        writer = self.gguf.GGUFWriter(path, architecture)
        for name, values in directions.items():
            writer.add_tensor(name, values)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return path

    def test_the_number_is_that_of_the_block_whose_output_moves(self, tmp_path):
        model, inputs = tiny_model(), left_padded()
        vector = make_vector(model, rank=2, operation="add", layer=2)
        path = to_gguf(vector, tmp_path / "vector.gguf", "suppress", 1.5)
        reader = self.gguf.GGUFReader(path)
        (tensor,) = reader.tensors
        number = int(tensor.name.removeprefix("direction."))
        assert tensor.tensor_type == self.gguf.GGMLQuantizationType.F32
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

    def test_several_blocks(self, tmp_path):
        model = tiny_model()
        low, high = (make_vector(model, operation="add", layer=layer) for layer in (1, 2))
        both = replace(low, sites=(*low.sites, *high.sites))
        path = to_gguf(both, tmp_path / "vector.gguf", "elicit")
        for vector in (low, high):
            read = from_gguf(path, model, vector.layer)
            torch.testing.assert_close(read.weight, 4 * vector.weight)

    def test_the_fields_are_those_that_readers_look_for(self, tmp_path):
        model = tiny_model("qwen2")
        reader = self.gguf.GGUFReader(
            to_gguf(make_vector(model, operation="add"), tmp_path / "vector.gguf")
        )

        def text(key):
            return bytes(reader.get_field(key).parts[-1]).decode()

        assert text("general.architecture") == "controlvector"
        assert text("controlvector.model_hint") == "qwen2"
        assert reader.get_field("controlvector.layer_count").parts[-1].tolist() == [1]

    def test_reads_back_what_it_wrote(self, tmp_path):
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

    def test_one_layer_of_several(self, tmp_path):
        model = tiny_model()
        rows = {f"direction.{i}": np.full(WIDTH, i, dtype=np.float32) for i in (1, 3)}
        path = self.write(tmp_path / "vector.gguf", rows)
        with pytest.raises(InputError, match=r"\[1, 3\]"):
            from_gguf(path, model)
        read = from_gguf(path, model, layer=3)
        assert read.layer == 3
        assert read.weight.tolist() == [[3.0] * WIDTH]

    def test_refuses_a_clamp(self, tmp_path):
        with pytest.raises(InputError, match="can only add"):
            to_gguf(make_vector(tiny_model()), tmp_path / "vector.gguf")

    def test_refuses_block_zero(self, tmp_path):
        vector = make_vector(tiny_model(), operation="add", layer=0)
        with pytest.raises(InputError, match="block 0"):
            to_gguf(vector, tmp_path / "vector.gguf")

    def test_refuses_files_that_are_not_control_vectors(self, tmp_path):
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
            from_gguf(self.write(tmp_path / "model.gguf", row, "llama"), model)

    def test_refuses_directions_that_do_not_fit(self, tmp_path):
        model = tiny_model()
        wide = {"direction.1": np.ones(2 * WIDTH, dtype=np.float32)}
        with pytest.raises(InputError, match=f"width {2 * WIDTH}"):
            from_gguf(self.write(tmp_path / "wide.gguf", wide), model)
        half = {"direction.1": np.ones(WIDTH, dtype=np.float16)}
        with pytest.raises(InputError, match="not float32"):
            from_gguf(self.write(tmp_path / "half.gguf", half), model)
        deep = {"direction.9": np.ones(WIDTH, dtype=np.float32)}
        with pytest.raises(InputError, match="out of range"):
            from_gguf(self.write(tmp_path / "deep.gguf", deep), model)


def test_gguf_files_need_the_gguf_package(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(InputError, match="pip install"):
        to_gguf(make_vector(tiny_model(), operation="add"), tmp_path / "vector.gguf")
