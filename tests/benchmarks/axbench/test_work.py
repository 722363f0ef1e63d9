"""The estimate of a training step's arithmetic is held against what torch counts."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.axbench.work import Lengths, decoding_work, latent_flops, site_of, training_work
from benchmarks.hardware import SPEED_FILE
from benchmarks.shapes import SHAPES, shape_of_config
from concept_das.data.quadruples import Quadruple
from concept_das.errors import InputError
from concept_das.methods.registry import find_method, trained_method
from concept_das.methods.settings import TrainingConfig
from concept_das.models.packaged import PACKAGED_MODEL
from concept_das.training.batch_loss import sum_losses
from concept_das.training.loop import build_losses
from concept_das.training.replay_engine import ReplayLosses
from tests.concept_das.helpers import tiny_chat, tiny_loaded

LENGTHS = Lengths(20, 50, 40, 40, test_input=30, prefix=6, suffix=4)


@pytest.mark.parametrize("method", ["cdas", "das", "lang", "reps", "bipo", "pdas"])
def test_a_step_is_what_the_engine_computes(method: str) -> None:
    loaded = tiny_loaded("gemma2")  # eager attention: all of it is matrix products
    shape = shape_of_config(loaded.model.config)
    chosen = trained_method(method)
    lengths = replace(LENGTHS, concept_input=20)  # rows of one length: no padding
    row = lengths.row(40)
    site = chosen.sites(loaded.model, 1, chosen.config())[0]
    loaded.model.requires_grad_(False)
    torch.manual_seed(0)
    built = chosen.build(loaded.model, [site], chosen.config())
    terms = chosen.terms([row], "sequence", np.random.default_rng(0))
    runs = [run for term in terms for run in term.runs]
    losses = build_losses(loaded.model, [site], [built], method, runs)
    sum_losses(losses, {0: terms}, 2048, backward=True)  # reference likelihoods, once
    with FlopCounterMode(display=False) as counter:
        sum_losses(losses, {0: terms}, 2048, backward=True)
    config = chosen.config(epochs=1, batch_size=1, max_response_tokens=40)
    # Transformers 4 lets no prefix of Gemma-2 be shared: it is computed with the rest.
    assert isinstance(losses, ReplayLosses)
    shared = losses.replay.shared
    replayed = replace(lengths, prefix=shared, suffix=lengths.suffix + lengths.prefix - shared)
    expected = training_work(shape, config, 1, 1, replayed)
    # Teacher logits are projected again in the estimate; these fit into memory.
    again = sum(shape.head_flops(len(run.base.response)) for run in runs)
    estimate = expected.step_flops - (again if chosen.objective.has_teacher else 0)
    # Left out: keys of the shared prefix, which show at this width, and the edit itself.
    assert counter.get_total_flops() == pytest.approx(estimate, rel=0.1)


def test_steps_are_epochs_times_batches() -> None:
    shape = SHAPES["google/gemma-2-2b-it"]
    config = TrainingConfig("cdas", epochs=18, batch_size=8)
    work = training_work(shape, config, 20, 72, LENGTHS)
    assert work.steps == 162
    # Elicit: 6 + 20 + 4 + 40; suppress: 6 + 50 + 4 + 40
    assert work.tokens == 18 * 72 * (70 + 100)
    assert training_work(shape, config, 20, 73, LENGTHS).steps == 180
    assert training_work(shape, config, 10, 72, LENGTHS).step_flops > work.step_flops


def test_preferences_run_both_responses() -> None:
    shape = SHAPES[PACKAGED_MODEL]

    def tokens(method: str) -> int:
        config = find_method(method).config(epochs=1)
        return training_work(shape, config, 15, 1, LENGTHS).tokens

    assert tokens("lang") == 70
    assert tokens("bipo") == 4 * 70
    assert tokens("reps") == 2 * 70 + 2 * 100
    assert tokens("pdas") == 2 * 70 + 2 * 100


def test_methods_without_a_loop_have_no_steps() -> None:
    shape = SHAPES[PACKAGED_MODEL]
    fitted = training_work(shape, find_method("diffmean").config(), 15, 4, LENGTHS)
    assert (fitted.steps, fitted.tokens) == (0, 0)
    assert fitted.cache_flops == pytest.approx(4 * 2 * shape.blocks_flops(70, 16))
    nothing = training_work(shape, find_method("prompt").config(), 15, 4, LENGTHS)
    assert nothing.cache_flops == nothing.step_flops == 0
    assert latent_flops(shape, find_method("lora").config(), 15, 4, LENGTHS) == 0
    assert latent_flops(shape, find_method("cdas").config(), 15, 4, LENGTHS) > 0


def test_training_starts_from_the_lowest_edited_block() -> None:
    config = find_method("loreft").config(layers=(10, 5))
    assert site_of(find_method("loreft"), config, 20) == 5
    assert site_of(find_method("lora"), config, 20) == 4  # its first adapter is inside block 5
    assert site_of(find_method("cdas"), find_method("cdas").config(), 20) == 20


def test_responses_are_cut_to_the_methods_limit() -> None:
    row = replace(LENGTHS, concept_output=300).row(128)
    assert len(row.elicit.base.response) == 128
    assert len(row.suppress.base.response) == 40


def test_decoding_reads_the_weights_once_per_batch_and_step() -> None:
    shape = SHAPES[PACKAGED_MODEL]
    few = decoding_work(shape, 4, 30, 10, batch_tokens=400)
    assert (few.steps, few.tokens) == (10, 40)
    many = decoding_work(shape, 25, 30, 10, batch_tokens=400)  # batches of 10
    assert many.steps == 30
    cache = 10 * 35 * shape.layers * 2 * shape.kv_width
    assert many.step_numbers == shape.read_per_step + cache
    assert decoding_work(shape, 0, 30, 10, batch_tokens=400).steps == 0


def test_the_measured_run_is_reproduced() -> None:
    """The concept that `benchmarks.speed` trained: 72 rows, 10 epochs, template of 24 + 6."""
    record = json.loads(Path(SPEED_FILE).read_text())
    lengths = Lengths(prefix=24, suffix=6)
    config = TrainingConfig("cdas", epochs=10, batch_size=8)
    work = training_work(SHAPES[PACKAGED_MODEL], config, 15, 72, lengths)
    rate = record["attainable_gflops_float32"] * 1e9 * record["gemm_fraction"]
    estimate = (work.cache_flops + work.step_flops) / rate
    assert estimate == pytest.approx(record["concept_seconds"], rel=0.3)


def test_lengths_are_measured_on_texts() -> None:
    chat = tiny_chat()  # one token per character
    rows = [Quadruple("abcd", "xy", "abcdefgh", "xyz"), Quadruple("ab", "xy", "ab", "xyzuv")]
    lengths = Lengths.of(chat, rows, ["abc"])
    assert (lengths.neutral_input, lengths.concept_input) == (3, 5)
    assert (lengths.neutral_output, lengths.concept_output) == (2, 4)
    assert lengths.test_input == 3
    assert lengths.test_prompt == len(chat.prompt("abc").ids)
    assert "2 rows and 1 test" in lengths.source
    assert Lengths.of(chat, rows).test_input == Lengths.test_input
    with pytest.raises(InputError, match="no rows"):
        Lengths.of(chat, [])


@pytest.mark.parametrize("name", ["neutral_input", "concept_output", "test_input", "suffix"])
def test_lengths_of_nothing_are_refused(name: str) -> None:
    with pytest.raises(InputError, match=name if name != "suffix" else "template"):
        replace(LENGTHS, **{name: 0})
