import errno
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from concept_das.errors import InputError, VectorMismatchError
from concept_das.models.loading import LoadedModel
from concept_das.runs.files import write_atomically
from concept_das.steering.artifact import load_vector
from concept_das.steering.context import steer
from concept_das.steering.vector import ModelIdentity, SteeringVector
from tests.concept_das.helpers import EVERY_ARCHITECTURE, random_vector, unchecked, vector_at
from tests.tiny import LAYERS, VOCABULARY, WIDTH, tiny_model, tiny_tokenizer


@pytest.mark.parametrize("rank", [1, 3])
def test_round_trip(tmp_path: Path, rank: int) -> None:
    model = tiny_model()
    vector = random_vector(
        model,
        layer=2,
        rank=rank,
        operation="add",
        method="das",
        concept="Sprich wie ein Käpt'n 🏴‍☠️",
        system="Be brief.",
        source_token=-3,
        recipe={"rows": 72, "learning_rate": 0.04, "names": ["a"]},
        data_hash="abc",
        metrics={"elicitation_recovery": 0.1 + 0.2},
        versions={"torch": "2"},
    )
    loaded = SteeringVector.load(vector.save(tmp_path / "deep" / "vector"), model)
    for name in ("weight", "negative_factor", "positive_factor"):
        assert torch.equal(getattr(loaded, name), getattr(vector, name))
        assert getattr(loaded, name).dtype == torch.float32
    assert loaded.describe() == vector.describe()
    assert loaded.rank == rank
    assert sorted(path.name for path in (tmp_path / "deep/vector").iterdir()) == [
        "vector.json",
        "vector.safetensors",
    ]


def test_round_trip_of_several_sites(tmp_path: Path) -> None:
    model = tiny_model()
    vector = vector_at(model, (2, 0), operation="add", metrics={"a": 1.0})
    assert vector.layers == (0, 2)
    assert (vector.rank, vector.parameters) == (3, 4 * WIDTH)
    loaded = SteeringVector.load(vector.save(tmp_path), model)
    for found, expected in zip(loaded.sites, vector.sites, strict=True):
        assert found.layer == expected.layer
        for name in ("weight", "negative_factor", "positive_factor"):
            assert torch.equal(getattr(found, name), getattr(expected, name))
    assert loaded.describe() == vector.describe()


@pytest.mark.parametrize("name", ["weight", "negative_factor", "positive_factor", "layer"])
def test_several_sites_have_no_parts_of_one(name: str) -> None:
    vector = vector_at(tiny_model(), (0, 2))
    with pytest.raises(InputError, match="acts at the layers 0, 2, and this needs a vector of one"):
        getattr(vector, name)


def test_parts_that_make_no_vector() -> None:
    model = tiny_model()
    with pytest.raises(InputError, match="give sites, or weight, negative_factor"):
        SteeringVector(layer=1, model=ModelIdentity.of(model))
    with pytest.raises(InputError, match="a layer is given twice"):
        vector_at(model, (1, 1))


def test_saving_again_replaces(tmp_path: Path) -> None:
    model = tiny_model()
    random_vector(model, seed=1).save(tmp_path)
    other = random_vector(model, seed=2)
    other.save(str(tmp_path))
    assert torch.equal(SteeringVector.load(str(tmp_path)).weight, other.weight)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    return random_vector(tiny_model()).save(tmp_path / "vector")


def change_json(folder: Path, **changes: Any) -> None:
    path = folder / "vector.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_a_truncated_tensor_file(saved: Path) -> None:
    path = saved / "vector.safetensors"
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(InputError, match=f"{path} is truncated or was changed"):
        SteeringVector.load(saved)


def test_an_edited_tensor_file(saved: Path) -> None:
    path = saved / "vector.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match=f"{path} is truncated or was changed"):
        SteeringVector.load(saved)


def test_the_tensors_of_another_vector(saved: Path, tmp_path: Path) -> None:
    other = random_vector(tiny_model(), seed=5).save(tmp_path / "other")
    (other / "vector.safetensors").replace(saved / "vector.safetensors")
    with pytest.raises(InputError, match="is truncated or was changed"):
        SteeringVector.load(saved)


@pytest.mark.parametrize(
    "changes",
    [{"operation": "add"}, {"prefix_length": 0}, {"site": {"layer": 3}}, {"concept": "other"}],
)
def test_an_edited_description(saved: Path, changes: dict[str, Any]) -> None:
    change_json(saved, **changes)
    with pytest.raises(InputError, match=r"vector.json was changed after saving; restore it"):
        SteeringVector.load(saved)


@pytest.mark.parametrize("content", ["", "{", '{"a": 1} trailing', "\xff"])
def test_a_description_that_is_no_json(saved: Path, content: str) -> None:
    (saved / "vector.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(InputError, match=r"vector.json is not valid JSON"):
        SteeringVector.load(saved)


@pytest.mark.parametrize("content", ["[]", "null", '"text"'])
def test_a_description_that_is_no_object(saved: Path, content: str) -> None:
    (saved / "vector.json").write_text(content)
    with pytest.raises(InputError, match="vector.json is no description of a vector"):
        SteeringVector.load(saved)


@pytest.mark.parametrize("name", ["vector.json", "vector.safetensors"])
def test_a_missing_file(saved: Path, name: str) -> None:
    (saved / name).unlink()
    with pytest.raises(InputError, match=f"{saved} holds no {name}"):
        SteeringVector.load(saved)


def test_a_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nowhere holds no vector.safetensors"):
        SteeringVector.load(tmp_path / "nowhere")


@pytest.mark.parametrize("version", [2, None, "1"])
def test_another_format_version(saved: Path, version: Any) -> None:
    change_json(saved, format_version=version)
    with pytest.raises(InputError, match=f"has format version {version}; this release reads 1"):
        SteeringVector.load(saved)


def test_files_of_another_program(tmp_path: Path) -> None:
    save_file({"weight": torch.zeros(1, 4)}, tmp_path / "vector.safetensors")
    (tmp_path / "vector.json").write_text("{}")
    with pytest.raises(InputError, match="is truncated or was changed"):
        SteeringVector.load(tmp_path)


@pytest.mark.parametrize("name", ["negative_factor", "positive_factor"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_factors_must_be_finite(name: str, value: float) -> None:
    vector = random_vector(tiny_model(), rank=2)
    with pytest.raises(InputError, match=f"{name} holds NaN or Inf"):
        replace(vector, **{name: torch.tensor([0.0, value])})


@pytest.mark.parametrize("name", ["negative_factor", "positive_factor"])
def test_factors_must_fit_the_rank(name: str) -> None:
    vector = random_vector(tiny_model(), rank=2)
    with unchecked(), pytest.raises(InputError, match=rf"{name} has shape \(3,\); expected \(2,\)"):
        replace(vector, **{name: torch.zeros(3)})


def test_the_weight_must_be_finite() -> None:
    vector = random_vector(tiny_model())
    with pytest.raises(InputError, match="the weight holds NaN or Inf"):
        replace(vector, weight=vector.weight * float("nan"))


def test_another_models_vector(saved: Path) -> None:
    other = tiny_model(seed=1)
    with pytest.raises(VectorMismatchError, match="this vector belongs to .* not to .*; load that"):
        SteeringVector.load(saved, other)
    with pytest.raises(VectorMismatchError):
        SteeringVector.load(saved, LoadedModel(other, tiny_tokenizer(), "other"))
    with pytest.raises(VectorMismatchError):
        SteeringVector.load(saved, tiny_model("qwen2"))
    SteeringVector.load(saved, LoadedModel(tiny_model(), tiny_tokenizer(), "the same"))


def test_another_fine_tune_only_when_asked_for(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    base, tuned = tiny_model(), tiny_model()
    saved = random_vector(base).save(tmp_path)
    with torch.no_grad():
        tuned.model.layers[0].mlp.up_proj.weight.mul_(1.1)
    with pytest.raises(VectorMismatchError, match="allow_other_weights=True if this is a fine-tun"):
        load_vector(saved, tuned)
    vector = load_vector(saved)
    with pytest.raises(VectorMismatchError), steer(tuned, vector):
        pass
    assert not caplog.records
    with steer(tuned, vector, allow_other_weights=True):
        pass
    adopted = load_vector(saved, tuned, allow_other_weights=True)
    assert [record.message.rpartition("; ")[2] for record in caplog.records] == [
        "its effect on other weights is not known"
    ] * 2
    with steer(tuned, adopted):  # belongs to the fine-tune from here on
        pass
    shallow = tiny_model(seed=1)
    shallow.config.num_hidden_layers = LAYERS - 1
    with pytest.raises(VectorMismatchError, match="or train a vector for this one$"):
        load_vector(saved, shallow, allow_other_weights=True)


@EVERY_ARCHITECTURE
def test_the_fingerprint_is_of_the_weights_and_not_of_their_precision(architecture: str) -> None:
    fingerprint = ModelIdentity.of(tiny_model(architecture)).fingerprint
    assert ModelIdentity.of(tiny_model(architecture).to(torch.bfloat16)).fingerprint == fingerprint
    assert ModelIdentity.of(tiny_model(architecture, seed=1)).fingerprint != fingerprint


def test_the_fingerprint_sees_a_fine_tuned_model() -> None:
    fingerprint = ModelIdentity.of(tiny_model()).fingerprint
    tuned = tiny_model()
    with torch.no_grad():
        tuned.get_input_embeddings().weight[7, 3] += 0.1
    assert ModelIdentity.of(tuned).fingerprint != fingerprint
    tuned = tiny_model()
    with torch.no_grad():
        tuned.model.norm.weight[0] += 0.1
    assert ModelIdentity.of(tuned).fingerprint != fingerprint


def test_the_fingerprint_of_a_model_saved_in_bfloat16(tmp_path: Path) -> None:
    model = tiny_model()
    model.to(torch.bfloat16).save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path).float()
    assert ModelIdentity.of(again).fingerprint == ModelIdentity.of(tiny_model()).fingerprint


def test_the_identity_of_a_model() -> None:
    identity = ModelIdentity.of(tiny_model("qwen2"), "my/model", "abc123")
    assert (identity.name, identity.revision) == ("my/model", "abc123")
    assert identity.architecture == "Qwen2ForCausalLM"
    assert (identity.n_layers, identity.hidden_size) == (LAYERS, WIDTH)
    assert identity.vocab_size == len(VOCABULARY)
    assert ModelIdentity.of(tiny_model()).name == "LlamaForCausalLM"


def test_targets_of_both_rules() -> None:
    vector = replace(
        random_vector(tiny_model(), rank=2),
        negative_factor=torch.tensor([-1.0, 2.0]),
        positive_factor=torch.tensor([3.0, 4.0]),
    )
    negative, positive = vector.negative_factor, vector.positive_factor
    zero = torch.zeros(2)
    expected = {
        ("elicit", "paper"): (zero, positive),
        ("suppress", "paper"): (zero, negative),
        ("elicit", "interpolate"): (negative, positive),
        ("suppress", "interpolate"): (positive, negative),
    }
    for (direction, rule), (at_0, at_1) in expected.items():
        assert torch.equal(vector.target(direction, 0.0, rule), at_0)
        assert torch.equal(vector.target(direction, 1.0, rule), at_1)
    assert torch.equal(vector.target("elicit", 1.5), 1.5 * positive)
    assert vector.target("elicit", 1.5, "interpolate").tolist() == [5.0, 5.0]


def test_unknown_directions_and_rules() -> None:
    vector = random_vector(tiny_model())
    with (
        unchecked(),
        pytest.raises(InputError, match="unknown direction 'up'; choose elicit or suppress"),
    ):
        vector.target("up")
    with (
        unchecked(),
        pytest.raises(InputError, match="unknown rule 'golden'; choose paper or interpolate"),
    ):
        vector.target("elicit", 1.0, "golden")


def test_the_description_can_be_read_by_people(saved: Path) -> None:
    described = json.loads((saved / "vector.json").read_text())
    assert described["formula"].startswith("h + W^T (a - W h)")
    assert described["site"] == {"layer": 1, "component": "output of the decoder block, 0-based"}
    assert described["row_norms"] == [1.0]
    stored = load_file(saved / "vector.safetensors")
    assert described["factors"]["positive"] == stored["positive_factor"].tolist()


def test_a_failed_write_keeps_the_old_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    write_atomically(path, b"old")

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "disk full")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        with pytest.raises(OSError, match="disk full"):
            write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]
    write_atomically(path, b"new")
    assert path.read_bytes() == b"new"
    assert path.stat().st_mode & 0o777 == 0o644
