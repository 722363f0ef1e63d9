from typing import Any

import pytest
import torch
from torch import nn

from concept_das.data.batches import collate
from concept_das.errors import InputError
from concept_das.models.blocks import (
    capture,
    decoder_of,
    find_blocks,
    find_site,
    hidden_states_at,
    spread_blocks,
)
from tests.concept_das.helpers import EVERY_ARCHITECTURE, encoded_rows
from tests.tiny import LAYERS, WIDTH, tiny_model

IDS = torch.arange(3, 13).reshape(2, 5)


@EVERY_ARCHITECTURE
def test_the_site_is_the_block(architecture: str) -> None:
    model = tiny_model(architecture)
    site = find_site(model, 2)
    root = "transformer.h" if architecture == "gpt2" else "model.layers"
    assert site.component == f"{root}[2].output"
    assert (site.layer, site.width, site.n_layers) == (2, WIDTH, LAYERS)
    assert site.module(model) is model.get_submodule(f"{root}.2")


@EVERY_ARCHITECTURE
@pytest.mark.parametrize("layer", [0, 1, 2])
def test_hidden_states_equal_transformers_own(architecture: str, layer: int) -> None:
    model = tiny_model(architecture)
    batch = collate([row.elicit.base for row in encoded_rows()])
    expected = model(**batch.model_inputs(), output_hidden_states=True).hidden_states[layer + 1]
    site = find_site(model, layer)
    found = hidden_states_at(model, site, **batch.model_inputs())
    assert torch.equal(found, expected)
    with capture(model, site) as seen:
        model(**batch.model_inputs())
    assert torch.equal(seen[0], expected)
    assert not seen[0].requires_grad


def test_layers_count_from_the_end_too() -> None:
    model = tiny_model()
    assert find_site(model, -1) == find_site(model, LAYERS - 1)
    assert find_site(model, -LAYERS) == find_site(model, 0)


@pytest.mark.parametrize("layer", [LAYERS, -LAYERS - 1, 99])
def test_a_layer_out_of_range(layer: int) -> None:
    message = (
        f"layer {layer} is out of range: LlamaForCausalLM has {LAYERS} blocks, 0 to {LAYERS - 1}"
    )
    with pytest.raises(InputError, match=message):
        find_site(tiny_model(), layer)


def test_a_model_without_a_list_of_blocks() -> None:
    model = tiny_model()
    model.model.layers = nn.Sequential(*model.model.layers)
    with pytest.raises(InputError, match=f"no list of {LAYERS} decoder blocks found in LlamaFor"):
        find_site(model, 0)


def test_the_outermost_list_in_the_decoder_is_taken() -> None:
    model = tiny_model()
    model.a_tower = nn.Module()  # of a multimodal model, with as many blocks as the decoder
    model.a_tower.blocks = nn.ModuleList([nn.Identity() for _ in range(LAYERS)])
    model.model.layers[0].experts = nn.ModuleList([nn.Identity() for _ in range(LAYERS)])
    assert find_site(model, 1).path == "model.layers[1]"


def hooks_of(model: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


class _Boom(Exception):
    pass


def test_hooks_are_removed_and_the_users_stay() -> None:
    model = tiny_model()
    site = find_site(model, 1)
    calls: list[Any] = []
    site.module(model).register_forward_hook(lambda *_: calls.append("user"))
    before = hooks_of(model)

    with capture(model, site) as seen:
        model(IDS)
        model(IDS)
    assert len(seen) == 2
    hidden_states_at(model, site, input_ids=IDS)
    assert calls == ["user"] * 3
    assert hooks_of(model) == before

    with pytest.raises(_Boom), capture(model, site):
        raise _Boom
    assert hooks_of(model) == before


def test_hidden_states_after_a_failed_pass() -> None:
    model = tiny_model()
    with pytest.raises(IndexError):
        hidden_states_at(model, find_site(model, 1), input_ids=torch.tensor([[10**6]]))
    assert hooks_of(model) == 0


def test_blocks_above_the_site_are_not_run() -> None:
    model = tiny_model()
    ran = []
    for i, block in enumerate(model.model.layers):
        block.register_forward_pre_hook(lambda *_, i=i: ran.append(i))
    hidden_states_at(model, find_site(model, 1), input_ids=IDS)
    assert ran == [0, 1]


def test_the_decoder_has_no_head() -> None:
    for name in ("llama", "gpt2"):
        model = tiny_model(name)
        plain = decoder_of(model)
        assert all(module is not model.get_output_embeddings() for module in plain.modules())
        # GPT-2 and others in transformers 4.46 to 4.57.
        model.get_decoder = lambda model=model: model
        assert decoder_of(model) is plain


def test_the_decoder_of_a_language_model_inside_another() -> None:
    model = tiny_model()
    model.language_model = tiny_model(seed=1)
    model.get_decoder = lambda: model.language_model
    model.get_output_embeddings = lambda: model.language_model.lm_head
    assert decoder_of(model) is model.language_model.model


def test_the_blocks_that_are_meant() -> None:
    model = tiny_model()
    assert find_blocks(model, [-1, 0]) == (0, LAYERS - 1)
    assert find_blocks(model, "spread") == spread_blocks(LAYERS) == (0, 1, 2, 3)
    assert spread_blocks(30) == (6, 9, 12, 15, 18, 21, 24, 27)
    with pytest.raises(InputError, match="a layer is given twice; name each once"):
        find_blocks(model, [1, 1 - LAYERS])
    with pytest.raises(InputError, match="layer 4 is out of range"):
        find_blocks(model, [4])
