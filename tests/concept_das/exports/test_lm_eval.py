"""lm-eval steers by an exported vector as `steer` does, or the export is refused."""

from typing import Any

import pytest
import torch

from concept_das.errors import InputError, VectorMismatchError
from concept_das.exports import (
    to_lm_eval,
)
from concept_das.steering.vector import ModelIdentity, SteeringVector
from tests.concept_das.exports.vectors import at_two_blocks, make_vector, steered_logits
from tests.tiny import WIDTH, tiny_model, tiny_tokenizer


@pytest.mark.parametrize("name", ["llama", "phi3", "gpt2"])
@pytest.mark.parametrize(("operation", "rank"), [("clamp", 1), ("add", 1), ("add", 2)])
def test_lm_eval_steers_as_steer_without_a_prefix(name, operation, rank, tmp_path):
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


def test_several_blocks(tmp_path):
    model = tiny_model("gpt2")
    vector = at_two_blocks(model)
    path = to_lm_eval(vector, model, tmp_path / "vector.pt", "suppress")
    entries = torch.load(path, weights_only=True)
    assert list(entries) == [f"h.{layer}" for layer in vector.layers]
    for entry, at in zip(entries.values(), vector.sites, strict=True):
        assert torch.equal(entry["steering_vector"], at.weight[0])
        assert entry["steering_coefficient"] == float(at.negative_factor[0])


def test_the_file_holds_tensors_under_the_name_of_the_block(tmp_path):
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


def test_refuses_a_clamp_of_several_directions(tmp_path):
    model = tiny_model()
    with pytest.raises(InputError, match="one direction per module"):
        to_lm_eval(make_vector(model, rank=2), model, tmp_path / "vector.pt", "elicit")


def test_refuses_what_lm_eval_would_normalise(tmp_path):
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


def test_refuses_a_name_that_lm_eval_does_not_read(tmp_path):
    model = tiny_model()
    with pytest.raises(InputError, match=r"\.pth"):
        to_lm_eval(make_vector(model), model, tmp_path / "vector.bin", "elicit")


def test_refuses_another_model(tmp_path):
    vector = make_vector(tiny_model(seed=1))
    with pytest.raises(VectorMismatchError):
        to_lm_eval(vector, tiny_model(seed=2), tmp_path / "vector.pt", "elicit")
