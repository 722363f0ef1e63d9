"""A fingerprint is the same for the same weights, whatever they are in, and another for others."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import PreTrainedModel

from concept_das.errors import InputError
from concept_das.models.identity import ModelIdentity, same_weights
from tests.concept_das.helpers import unchecked
from tests.tiny import tiny_model

peft = pytest.importorskip("peft")


def fingerprint(model: Any) -> str:
    with unchecked():
        return ModelIdentity.of(model).fingerprint


def with_adapter(model: PreTrainedModel, config: Any = None, *, learned: bool = True) -> Any:
    """A PEFT model; its adapter adds nothing unless it has learned."""
    config = config or peft.LoraConfig(r=2, target_modules=["q_proj", "down_proj"])
    torch.manual_seed(0)
    adapted = peft.get_peft_model(model, config)
    if learned:
        with torch.no_grad():
            for parameter in adapted.parameters():
                if parameter.requires_grad:
                    parameter.add_(torch.randn_like(parameter) * 0.1)
    return adapted


def added_tokens(model: PreTrainedModel) -> PreTrainedModel:
    model.resize_token_embeddings(model.config.vocab_size + 3, mean_resizing=False)
    return model


def untied(model: PreTrainedModel) -> PreTrainedModel:
    model.lm_head.weight = nn.Parameter(model.get_input_embeddings().weight.detach().clone())
    return model


def offloaded(model: PreTrainedModel) -> PreTrainedModel:
    accelerate = pytest.importorskip("accelerate")
    accelerate.cpu_offload(model, execution_device="cpu")
    assert model.model.layers[0].mlp.up_proj.weight.is_meta
    return model


def compiled_block(model: PreTrainedModel) -> PreTrainedModel:
    model.model.layers[1] = torch.compile(model.model.layers[1])
    return model


SAME: dict[str, Callable[[PreTrainedModel], Any]] = {
    "bfloat16": lambda model: model.to(torch.bfloat16),
    "compiled": torch.compile,
    "a compiled block": compiled_block,
    "an adapter that adds nothing": lambda model: with_adapter(model, learned=False),
    "another kind of adapter, off": lambda model: off(with_adapter(model, ia3())),
    "an adapter that is off": lambda model: off(with_adapter(model)),
    "compiled with an adapter": lambda model: torch.compile(with_adapter(model, learned=False)),
    "offloaded": offloaded,
    "tokens added": added_tokens,
}


def ia3() -> Any:
    return peft.IA3Config(target_modules=["k_proj"], feedforward_modules=[])


def off(adapted: Any) -> Any:
    adapted.base_model.disable_adapter_layers()
    return adapted


def changed(name: str, change: Callable[[torch.Tensor], torch.Tensor]) -> Callable[..., Any]:
    def apply(model: PreTrainedModel) -> PreTrainedModel:
        weight = model.get_parameter(name)
        with torch.no_grad():
            weight.copy_(change(weight))
        return model

    return apply


def without_a_direction(weight: torch.Tensor) -> torch.Tensor:
    direction = torch.ones(len(weight), 1) / len(weight) ** 0.5
    return weight - direction @ (direction.T @ weight)


OTHER: dict[str, Callable[[PreTrainedModel], Any]] = {
    "a merged LoRA": lambda model: with_adapter(model).merge_and_unload(),
    "an abliterated matrix": changed("model.layers.2.mlp.down_proj.weight", without_a_direction),
    "late rows of the embedding": changed("model.embed_tokens.weight", lambda w: w * 1.01),
    "a norm": changed("model.norm.weight", lambda w: w * 1.01),
    "an active LoRA": with_adapter,
    "an active DoRA": lambda model: with_adapter(
        model, peft.LoraConfig(target_modules=["q_proj"], use_dora=True)
    ),
    "an active IA3": lambda model: with_adapter(model, ia3()),
    "a trained copy of a module": lambda model: with_adapter(
        model, peft.LoraConfig(target_modules=["q_proj"], modules_to_save=["lm_head"])
    ),
    "a learned prompt": lambda model: with_adapter(
        model, peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)
    ),
}


@pytest.mark.parametrize("way", SAME)
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")
def test_the_same_weights_in_another_form(way: str) -> None:
    assert fingerprint(SAME[way](tiny_model())) == fingerprint(tiny_model())


@pytest.mark.parametrize("way", OTHER)
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")
def test_other_weights(way: str) -> None:
    assert not same_weights(fingerprint(OTHER[way](tiny_model())), fingerprint(tiny_model()))


def test_an_untied_head_with_the_embedding_s_numbers() -> None:
    tied = tiny_model()
    tied.config.tie_word_embeddings = True
    tied.tie_weights()
    assert fingerprint(untied(copy.deepcopy(tied))) == fingerprint(tied)


def test_weights_on_the_disk(tmp_path: Path) -> None:
    accelerate = pytest.importorskip("accelerate")
    model = tiny_model()
    accelerate.disk_offload(model, str(tmp_path), execution_device="cpu")
    assert fingerprint(model) == fingerprint(tiny_model())
    model(torch.tensor([[3, 4]]))  # and it still runs


def test_a_model_without_weights() -> None:
    with pytest.raises(InputError, match="is on the meta device; load its weights"):
        fingerprint(tiny_model().to("meta"))


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")
def test_an_active_lora_is_its_merged_model_and_no_other() -> None:
    adapted = with_adapter(tiny_model())
    before = fingerprint(adapted)
    assert fingerprint(adapted.merge_and_unload()) == before
    second = peft.get_peft_model(tiny_model(), peft.LoraConfig(target_modules=["v_proj"]))
    assert fingerprint(second) != before


def quantised(model: PreTrainedModel) -> PreTrainedModel:
    """As bitsandbytes leaves a model: matrices of integers, the rest as it was."""
    for layer in model.model.layers:
        for name, module in layer.named_modules():
            if isinstance(module, nn.Linear) and "lora_" not in name:
                module.weight = nn.Parameter(
                    module.weight.detach().mul(100).to(torch.int8), requires_grad=False
                )
    return model


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")
def test_quantised_matrices_are_skipped_but_not_an_adapter_on_them() -> None:
    plain, base = fingerprint(tiny_model()), fingerprint(quantised(tiny_model()))
    assert base.endswith(":-")
    assert same_weights(base, plain)
    assert same_weights(plain, base)
    assert not same_weights(base, fingerprint(tiny_model(seed=1)))
    adapted = quantised(with_adapter(tiny_model()).get_base_model())
    for other in (plain, base, fingerprint(with_adapter(tiny_model()))):
        assert not same_weights(fingerprint(adapted), other)


def test_earlier_releases_wrote_the_first_part_alone() -> None:
    mark, first, second = fingerprint(tiny_model()).split(":")
    assert (mark, len(first), len(second)) == ("2", 64, 64)
    # Written by release 0.1.0.
    assert first == "3b718d333d695409476736d82a558d6e51cbb7693a81317a80159cae093c7729"
    tuned = changed("model.layers.2.mlp.down_proj.weight", without_a_direction)(tiny_model())
    assert same_weights(first, fingerprint(tuned))
    assert not same_weights(first, fingerprint(tiny_model(seed=1)))
    assert not same_weights("", fingerprint(tuned))


def test_the_identity_of_a_wrapped_model_names_the_model() -> None:
    with unchecked():
        found = ModelIdentity.of(torch.compile(with_adapter(tiny_model())))
    assert found.architecture == "LlamaForCausalLM"
    assert found.has_shape_of(ModelIdentity.of(tiny_model(seed=1)))
