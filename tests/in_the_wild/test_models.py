"""Models of many kinds: steered and trained alike with and without shortcuts, or one sentence.

`replayed` in the table: only the blocks above the site run while a vector is trained. `whole`: the
model runs as a whole, because its upper blocks cannot be run alone.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from packaging.version import Version
from transformers import PreTrainedModel

from concept_das.models.blocks import decoder_of, find_site
from concept_das.models.replay import Replay, ReplayError
from concept_das.steering.context import steer
from tests.concept_das.helpers import encoded_rows, random_vector, unchecked
from tests.in_the_wild.rows import Refused, Row, check, every_row
from tests.tiny import LAYERS, VOCABULARY, WIDTH, tiny_model

_SIZES = {
    "vocab_size": len(VOCABULARY),
    "hidden_size": WIDTH,
    "intermediate_size": 24,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 2,
    "initializer_range": 0.4,
    "pad_token_id": 2,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_GPT = {"n_embd": WIDTH, "n_layer": LAYERS, "n_head": 2, "n_positions": 512}


def made(name: str, **options: Any) -> Callable[[], PreTrainedModel]:
    """A model class of transformers by its name, with small sizes."""

    def build() -> PreTrainedModel:
        kind = getattr(transformers, name, None)
        if kind is None:
            pytest.skip(f"transformers {transformers.__version__} has no {name}")
        torch.manual_seed(0)
        return kind(kind.config_class(**{**_SIZES, **options})).eval()

    return build


def changed(change: Callable[[PreTrainedModel], Any], name: str = "llama") -> Callable[[], Any]:
    """A tiny model after a change."""

    def build() -> Any:
        model = tiny_model(name)
        return change(model) or model

    return build


def answers_with_itself(model: PreTrainedModel) -> None:
    """As GPT-2, GPT-J, NeoX, Falcon and Bloom do in transformers 4.46 to 4.57."""
    model.get_decoder = lambda: model


def adapted(model: PreTrainedModel) -> Any:
    peft = pytest.importorskip("peft")
    return peft.get_peft_model(model, peft.LoraConfig(target_modules=["q_proj"]))


V5 = Version(transformers.__version__).major >= 5
# In transformers 4 their decoders take no positions, or no plain cache.
ON_FIVE = "replayed" if V5 else "whole"

ENCODER = Refused("has an encoder and a decoder; pass a decoder-only transformer")
STATE = Refused("keeps a state in place of keys and values")


def model(tried: str, make: Callable[[], Any], comes_out: str | Refused = "replayed") -> Row:
    """A row; its model needs no folder."""
    return Row(tried, lambda _folder: make(), comes_out)


ROWS = (
    model("GPT-2", made("GPT2LMHeadModel", **_GPT)),
    model("GPT-J", made("GPTJForCausalLM", **_GPT, rotary_dim=4)),
    model("GPT-NeoX", made("GPTNeoXForCausalLM")),
    model("Falcon", made("FalconForCausalLM")),
    model("Bloom", made("BloomForCausalLM", n_head=2, n_layer=LAYERS)),
    model(
        "OPT",
        made("OPTForCausalLM", ffn_dim=24, word_embed_proj_dim=WIDTH),
        "replayed" if Version(transformers.__version__) >= Version("4.52") else "whole",
    ),
    model("Phi", made("PhiForCausalLM")),
    model("StableLM", made("StableLmForCausalLM", num_key_value_heads=2)),
    model("Mixtral", made("MixtralForCausalLM", num_key_value_heads=2, num_local_experts=2)),
    model("BART's decoder", made("BartForCausalLM", d_model=WIDTH, decoder_layers=LAYERS), ON_FIVE),
    model("its decoder is itself", changed(answers_with_itself, "gpt2")),
    model("a decoder that is itself, Llama", changed(answers_with_itself)),
    model("an adapter", changed(adapted)),
    model("bfloat16", changed(lambda model: model.to(torch.bfloat16))),
    model("T5", made("T5ForConditionalGeneration", d_model=WIDTH, d_ff=24, num_heads=2), ENCODER),
    model("BART", made("BartForConditionalGeneration", d_model=WIDTH), ENCODER),
    model("Mamba", made("MambaForCausalLM"), STATE),
    model("Mamba-2", made("Mamba2ForCausalLM", num_heads=4, head_dim=8, n_groups=1), STATE),
    model("RWKV", made("RwkvForCausalLM", attention_hidden_size=WIDTH), STATE),
    model(
        "RecurrentGemma",
        made("RecurrentGemmaForCausalLM", num_key_value_heads=1, lru_width=WIDTH),
        ON_FIVE,
    ),
)


@every_row(*ROWS)
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")
def test_a_model(row: Row, tmp_path: Path) -> None:
    with unchecked():
        check(row, tmp_path, _way)


def _way(model: Any) -> str:
    site = find_site(model, 1)
    turns = [one.elicit.base for one in encoded_rows()]
    head = model.get_output_embeddings()
    assert all(module is not head for module in decoder_of(model).modules())
    _check_steering(model)
    try:
        Replay(model, [site], turns)
    except ReplayError:
        return "whole"
    return "replayed"


def _check_steering(model: Any) -> None:
    """Greedy tokens are the same with and without a cache, and other than unsteered."""
    prompt = encoded_rows()[0].elicit.base.prompt
    options = {"max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False, "pad_token_id": 2}

    def tokens(use_cache: bool) -> list[int]:
        output = model.generate(**prompt.tensors(), use_cache=use_cache, **options)
        return output[0, len(prompt.ids) :].tolist()

    plain = tokens(True)
    with steer(model, random_vector(model), multiplier=4.0):
        steered = tokens(True)
        assert steered == tokens(False)
    assert steered != plain
    assert tokens(True) == plain
