"""A model is replayed exactly, or refused."""

import pytest
import torch
import transformers
from packaging.version import Version
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from concept_das.data.chat_format import Turn
from concept_das.models.blocks import find_site
from concept_das.models.replay import Replay, ReplayError
from tests.concept_das.helpers import tiny_chat
from tests.tiny import VOCABULARY, tiny_model

ORIGINAL = 64  # tokens of the original context

ROPE = {
    "dynamic": {"rope_type": "dynamic", "factor": 2.0},
    "longrope": {
        "rope_type": "longrope",
        "factor": 4.0,
        "original_max_position_embeddings": ORIGINAL,
        "short_factor": [1.0] * 4,
        "long_factor": [1.0, 2.0, 3.0, 4.0],
    },
}


def stretched(kind: str) -> PreTrainedModel:
    rope = {"rope_theta": 100.0, **ROPE[kind]}
    width = ORIGINAL if kind == "dynamic" else 4 * ORIGINAL
    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(VOCABULARY),
            hidden_size=16,
            intermediate_size=24,
            num_hidden_layers=4,
            num_attention_heads=2,
            max_position_embeddings=width,
            initializer_range=0.4,
            rope_parameters=rope,
            rope_scaling=rope,  # its name in transformers 4, which reads the length elsewhere
            **({"original_max_position_embeddings": ORIGINAL} if kind == "longrope" else {}),
        )
    ).eval()


def turns(*lengths: int) -> list[Turn]:
    chat = tiny_chat()
    return [chat.prompt("Hi" * length).with_response((9, 10, 11)) for length in lengths]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", ROPE)
def test_rope_that_depends_on_the_longest_row(kind: str, dtype: torch.dtype) -> None:
    model = stretched(kind).to(dtype)
    length = len(turns(1)[0].ids)
    within = turns(1, (ORIGINAL - length) // 2)
    assert len(within[1].ids) <= ORIGINAL
    Replay(model, [find_site(model, 1)], within)
    if kind == "longrope" and Version(transformers.__version__) < Version("4.50"):
        pytest.skip("its Llama has one set of frequencies for all lengths")
    with pytest.raises(ReplayError, match="of their spread on .* in a batch of rows of"):
        Replay(model, [find_site(model, 1)], [*within, *turns(2, 60, 3)])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_small_error_at_one_block_is_noticed(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_model().to(dtype)
    site, rows = find_site(model, 1), turns(1, 20, 5)
    assert Replay(model, [site], rows).shared > 0
    states = Replay.states

    def disturbed(self: Replay, rows: list[Turn]) -> list[torch.Tensor]:
        return [row * 1.3 for row in states(self, rows)]

    monkeypatch.setattr(Replay, "states", disturbed)
    with pytest.raises(ReplayError):
        Replay(model, [site], rows)
