"""A compiled model is steered too: it runs as plain Python inside the block."""

import copy
import shutil
from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor
from transformers import GenerationConfig

from concept_das.steering.context import steer
from tests.concept_das.helpers import PAD, unchecked, vector_at
from tests.concept_das.steering.generating import PROMPTS, generating_model, inputs_of
from tests.tiny import tiny_model

pytestmark = pytest.mark.skipif(
    not hasattr(torch.compiler, "set_stance"), reason="torch before 2.6 has no stance"
)

needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler")


@pytest.mark.parametrize(
    "backend",
    [
        "eager",
        pytest.param("aot_eager", marks=pytest.mark.slow),
        pytest.param("inductor", marks=[pytest.mark.slow, needs_compiler]),
    ],
)
@pytest.mark.parametrize("way", ["wrapped", "in place", "block by block"])
def test_a_compiled_model_is_steered(way: str, backend: str) -> None:
    model, inputs = tiny_model(), inputs_of(PROMPTS)
    vector = vector_at(model, (1, 2))
    with torch.no_grad(), steer(model, vector):
        expected = model(**inputs).logits
    compiled: Any = torch.compile(model, backend=backend) if way == "wrapped" else model
    for part in {"in place": [model], "block by block": model.model.layers}.get(way, []):
        part.compile(backend=backend)
    with torch.no_grad():
        plain = compiled(**inputs).logits  # compiled without the hooks of the block
        for steered in (compiled, model):
            with unchecked(), steer(steered, vector):
                torch.testing.assert_close(compiled(**inputs).logits, expected)
        torch.testing.assert_close(compiled(**inputs).logits, plain)
    assert not torch.allclose(plain, expected)


@pytest.fixture
def compiling_model(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A model whose decoding steps transformers compiles by itself, as on a GPU."""
    config_class = getattr(transformers, "CompileConfig", None)
    if config_class is None or not hasattr(GenerationConfig(), "disable_compile"):
        pytest.skip("transformers compiles nothing by itself")
    model = generating_model("llama")
    compile_config = config_class(backend="eager", fullgraph=False, mode=None)
    compile_config._compile_all_devices = True
    model.generation_config.cache_implementation = "static"
    model.generation_config.compile_config = compile_config
    model.compiled = 0
    original = model.get_compiled_call

    def count(*args: Any, **kwargs: Any) -> Any:
        model.compiled += 1
        return original(*args, **kwargs)

    monkeypatch.setattr(model, "get_compiled_call", count)
    return model


def ids_of(model: Any, **options: Any) -> Tensor:
    """Greedy continuations, of 8 tokens."""
    inputs = inputs_of(PROMPTS)
    return model.generate(
        **inputs, **(options or {"max_new_tokens": 8, "do_sample": False, "pad_token_id": PAD})
    )


@pytest.mark.parametrize("positions", ["all", "prompt", "generated"])
def test_transformers_own_compilation_is_off(compiling_model: Any, positions: Any) -> None:
    model = generating_model("llama")
    vector = vector_at(model, (1, 2))
    with steer(model, vector, positions=positions):
        expected = ids_of(model)
    plain = ids_of(compiling_model)
    asked = compiling_model.compiled
    assert asked > 0
    with steer(compiling_model, vector, positions=positions):
        assert torch.equal(ids_of(compiling_model), expected)
    assert compiling_model.compiled == asked
    assert not torch.equal(plain, expected)
    assert torch.equal(ids_of(compiling_model), plain)


def test_a_given_configuration_is_not_changed(compiling_model: Any) -> None:
    config = copy.deepcopy(compiling_model.generation_config)
    config.update(max_new_tokens=8, do_sample=False, pad_token_id=PAD)
    before = config.to_dict()
    with steer(compiling_model, vector_at(compiling_model, (1,))):
        ids_of(compiling_model, generation_config=config)
    assert compiling_model.compiled == 0
    assert config.to_dict() == before


def test_a_generate_of_the_users_own_gets_its_own_arguments() -> None:
    model = generating_model("llama")
    original: Callable[..., Tensor] = model.generate

    def generate(input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return original(input_ids, attention_mask=attention_mask, max_new_tokens=2)

    model.generate = generate
    with steer(model, vector_at(model, (1,))):
        model.generate(**inputs_of(PROMPTS))
    assert model.generate is generate
