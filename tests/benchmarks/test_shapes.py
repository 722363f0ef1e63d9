from pathlib import Path

import pytest
import transformers
from packaging.version import Version
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.axbench.presets import PRESETS, Preset
from benchmarks.shapes import SHAPES, ModelShape, find_shape, shape_of_config
from concept_das.errors import InputError
from tests.tiny import TINY_ARCHITECTURES, tiny_model

COUNTED = [name for name in ("gemma2", "llama", "qwen2", "olmo2") if name in TINY_ARCHITECTURES]


@pytest.mark.parametrize("architecture", COUNTED)
def test_the_formula_counts_every_parameter_of_a_model(architecture: str) -> None:
    model = tiny_model(architecture)
    shape = shape_of_config(model.config)
    assert shape.parameters == sum(parameter.numel() for parameter in model.parameters())
    assert shape.tied == model.config.tie_word_embeddings


def test_the_formula_counts_the_flops_of_a_forward_pass() -> None:
    model = tiny_model("gemma2")  # eager attention: plain matrix products
    shape = shape_of_config(model.config)
    with FlopCounterMode(display=False) as counter:
        model(model.dummy_inputs["input_ids"][:1, :2].clamp(max=9).repeat(1, 10))
    expected = shape.blocks_flops(20, shape.layers) + shape.head_flops(20)
    # Transformers 4 takes the rotary angles by a product, anew in each block.
    rotary = 20 * model.config.head_dim * shape.layers
    own = rotary if Version(transformers.__version__).major < 5 else 0
    assert counter.get_total_flops() == expected + own


@pytest.mark.parametrize("preset", PRESETS.values(), ids=list(PRESETS))
def test_the_model_of_every_preset_is_known_and_deep_enough(preset: Preset) -> None:
    shape = find_shape(preset.model)
    blocks = [preset.layer, *(layer for c in preset.configs.values() for layer in c.layers)]
    assert max(blocks) < shape.layers


# Billions, as the model cards state them.
@pytest.mark.parametrize(
    ("model", "billions"),
    [
        ("google/gemma-2-2b-it", 2.61),
        ("google/gemma-2-9b-it", 9.24),
        ("Qwen/Qwen2.5-3B-Instruct", 3.09),
        ("Qwen/Qwen2.5-7B-Instruct", 7.62),
        ("Qwen/Qwen2.5-14B-Instruct", 14.77),
        ("allenai/OLMo-2-0425-1B-Instruct", 1.48),
        ("allenai/OLMo-2-1124-7B-Instruct", 7.30),
        ("allenai/OLMo-2-1124-13B-Instruct", 13.72),
        ("smollm2-135m", 0.1345),
    ],
)
def test_the_table_gives_the_published_sizes(model: str, billions: float) -> None:
    assert SHAPES[model].parameters / 1e9 == pytest.approx(billions, rel=4e-3)


def test_a_tied_head_is_read_at_each_step_and_an_embedding_table_is_not() -> None:
    tied = ModelShape("llama", 1, 8, 16, 100, 2, 1, 4, tied=True)
    untied = ModelShape("llama", 1, 8, 16, 100, 2, 1, 4, tied=False)
    assert untied.parameters - tied.parameters == 800
    assert untied.read_per_step == tied.read_per_step == tied.parameters


def test_a_local_folder_is_read(tmp_path: Path) -> None:
    model = tiny_model("llama")
    model.config.save_pretrained(tmp_path)
    assert find_shape(str(tmp_path)) == shape_of_config(model.config)


def test_unknown_models_and_families_are_named() -> None:
    with pytest.raises(InputError, match=r"no/such.*config\.json"):
        find_shape("no/such")
    with pytest.raises(InputError, match="gpt2.*llama"):
        shape_of_config(tiny_model("gpt2").config)
