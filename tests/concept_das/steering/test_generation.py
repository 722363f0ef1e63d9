from collections.abc import Sequence
from functools import cache
from typing import Any

import pytest
import torch
from scipy import stats
from transformers import LogitsProcessorList, PreTrainedModel

from concept_das.data.chat_format import Prompt
from concept_das.errors import InputError, VectorMismatchError
from concept_das.steering.context import Steering, steer
from concept_das.steering.generation import Decoding, decoding, generate_responses
from concept_das.steering.sampling import RowSampler, row_seed
from tests.concept_das.helpers import PAD, ROWS, random_vector, tiny_chat, tiny_loaded, unchecked
from tests.tiny import tiny_model

CHAT = tiny_chat()
PROMPTS = [CHAT.prompt(row.negative_input) for row in ROWS]
NEW = 6

# Tokens of a batch of two of these prompts, and of no more than two.
TWO = 2 * (max(len(prompt.ids) for prompt in PROMPTS) + NEW)


def answers(model: PreTrainedModel, prompts: Sequence[Prompt] = PROMPTS, **options: Any) -> Any:
    return generate_responses(model, CHAT, prompts, **{"max_new_tokens": NEW, **options})


def batch_sizes(model: PreTrainedModel, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Gains the number of rows of every batch."""
    sizes: list[int] = []
    original = model.generate

    def generate(*args: Any, **kwargs: Any) -> Any:
        sizes.append(len(kwargs["input_ids"]))
        return original(*args, **kwargs)

    monkeypatch.setattr(model, "generate", generate)
    return sizes


def test_answers_come_in_the_order_of_the_prompts() -> None:
    model = tiny_model()
    together = answers(model, batch_tokens=TWO)
    assert together == [answers(model, [prompt])[0] for prompt in PROMPTS]
    assert len(set(together)) > 1
    assert answers(model, PROMPTS[::-1])[::-1] == together


def test_an_answer_is_the_models_greedy_continuation() -> None:
    model = tiny_model("gpt2")
    ids = list(PROMPTS[0].ids)
    for _ in range(5):
        ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
    expected = CHAT.tokenizer.decode(ids[len(PROMPTS[0].ids) :], skip_special_tokens=True)
    assert answers(model, PROMPTS[:1], max_new_tokens=5) == [expected.strip()]


def test_a_loaded_model_a_tokenizer_and_text() -> None:
    loaded = tiny_loaded()
    texts = [row.negative_input for row in ROWS]
    assert answers(loaded.model) == generate_responses(
        loaded, loaded.tokenizer, texts, max_new_tokens=NEW
    )


def ending_model() -> PreTrainedModel:
    """A model that ends its turn where it would answer the first prompt."""
    model = tiny_model()
    with torch.no_grad():
        model.lm_head.weight.zero_()
        model.lm_head.weight[:, 0] = 1e-3
        state = model.model(torch.tensor([PROMPTS[0].ids])).last_hidden_state[0, -1]
        model.lm_head.weight[CHAT.tokenizer.eos_token_id] = state
    return model


def test_an_answer_ends_at_the_end_of_the_turn() -> None:
    assert answers(ending_model(), PROMPTS[:1]) == [""]


# What a model's file may say about its decoding and has no say in here.
IGNORED: dict[str, Any] = {
    "do_sample": True,
    "temperature": 0.6,
    "top_k": 3,
    "top_p": 0.5,
    "min_p": 0.9,
    "top_h": 0.1,
    "typical_p": 0.2,
    "epsilon_cutoff": 0.3,
    "eta_cutoff": 0.3,
    "repetition_penalty": 3.0,
    "encoder_repetition_penalty": 3.0,
    "no_repeat_ngram_size": 1,
    "encoder_no_repeat_ngram_size": 1,
    "length_penalty": -5.0,
    "exponential_decay_length_penalty": (1, 5.0),
    "sequence_bias": [[[9], 50.0]],
    "forced_bos_token_id": 9,
    "forced_eos_token_id": 2,
    "guidance_scale": 3.0,
    "renormalize_logits": True,
    "remove_invalid_values": True,
    "token_healing": True,
    "watermarking_config": {"greenlist_ratio": 0.25, "bias": 9.0},
    "min_length": 100,
    "min_new_tokens": 5,
    "max_length": 3,
    "max_time": 1e-9,
    "stop_strings": ["a", "e"],
    "early_stopping": True,
    "num_beams": 2,
    "num_beam_groups": 2,
    "diversity_penalty": 1.0,
    "penalty_alpha": 0.6,
    "dola_layers": "low",
    "num_return_sequences": 2,
    "return_dict_in_generate": True,
    "output_scores": True,
    "output_logits": True,
    "output_attentions": True,
    "output_hidden_states": True,
    "prompt_lookup_num_tokens": 2,
    "max_matching_ngram_size": 2,
    "assistant_early_exit": 2,
    "prefill_chunk_size": 4,
}


@pytest.mark.parametrize("name", IGNORED)
def test_the_models_own_decoding_options_do_not_matter(name: str) -> None:
    expected = plain_answers()
    model = tiny_model()
    setattr(model.generation_config, name, IGNORED[name])
    if name == "num_return_sequences":  # with which a greedy model refuses its own defaults
        model.generation_config.do_sample = True
    assert [answers(model), answers(model, temperature=1.0)] == expected


@cache
def plain_answers() -> list[list[str]]:
    model = tiny_model()
    return [answers(model), answers(model, temperature=1.0)]


def test_all_of_a_models_decoding_options_together() -> None:
    model = tiny_model()
    for name, value in IGNORED.items():
        setattr(model.generation_config, name, value)
    before = model.generation_config.to_dict()
    assert [answers(model), answers(model, temperature=1.0)] == plain_answers()
    assert model.generation_config.to_dict() == before


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("name", ["suppress_tokens", "bad_words_ids", "begin_suppress_tokens"])
def test_tokens_that_a_model_must_not_write_stay_unwritten(name: str, temperature: float) -> None:
    model = tiny_model()
    options = {"max_new_tokens": 20, "temperature": temperature}
    text = "".join(answers(model, **options))
    banned = CHAT.tokenizer(text, add_special_tokens=False)["input_ids"][:1]
    shown = CHAT.tokenizer.decode(banned)
    setattr(model.generation_config, name, [banned] if name == "bad_words_ids" else banned)
    found = answers(model, **options)
    assert shown in text[:1]
    assert not found[0].startswith(shown)
    if name != "begin_suppress_tokens":
        assert shown not in "".join(found)


@pytest.mark.parametrize("name", ["use_cache", "cache_implementation"])
def test_a_model_keeps_its_own_cache(name: str) -> None:
    model = tiny_model()
    value = {"use_cache": False, "cache_implementation": "static"}[name]
    setattr(model.generation_config, name, value)
    assert name not in decoding(model, PAD, Decoding(), [0])
    assert answers(model) == plain_answers()[0]


def test_batches_keep_the_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model()
    sizes = batch_sizes(model, monkeypatch)
    answers(model)
    assert sizes == [5]
    del sizes[:]
    answers(model, batch_tokens=TWO)
    assert max(sizes) == 2
    assert sum(sizes) == 5
    del sizes[:]
    answers(model, batch_tokens=1)
    assert sizes == [1] * 5
    del sizes[:]
    answers(model, batch_tokens=TWO, max_new_tokens=2 * NEW)  # new tokens count too
    assert sizes[0] == 1


def test_finished_batches_are_handed_out() -> None:
    batches: list[tuple[list[int], list[str]]] = []
    texts = answers(
        tiny_model(),
        batch_tokens=TWO,
        on_batch=lambda indices, found: batches.append((indices, found)),
    )
    assert len(batches) == 3
    handed = {i: text for indices, found in batches for i, text in zip(indices, found, strict=True)}
    assert [handed[i] for i in range(len(PROMPTS))] == texts


def test_no_prompts_no_answers() -> None:
    assert answers(tiny_model(), []) == []


# Steering


@pytest.mark.parametrize("positions", ["all", "prompt", "generated"])
def test_answers_are_steered_inside_a_block(positions: Any) -> None:
    model = tiny_model()
    plain, vector = answers(model), random_vector(model)
    with steer(model, vector, positions=positions):
        steered = answers(model, batch_tokens=TWO)
        assert answers(model) == steered
    assert steered != plain
    assert answers(model) == plain
    assert answers(model, steering=Steering(vector), positions=positions) == steered


@pytest.mark.parametrize(
    ("positions", "temperature"), [("all", 0.0), ("all", 1.3), ("prompt", 0.0), ("generated", 0.0)]
)
def test_every_prompt_with_its_own_steering(
    positions: Any, temperature: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_model()
    first = random_vector(model, layer=1, rank=2)
    second = random_vector(model, layer=2, seed=1, operation="add")
    strengths = [
        None,
        Steering(first),
        Steering(first, "suppress", 2.0),
        Steering(second, "elicit", 0.9),
    ]
    # Prompts times strengths, mixed so that neither the order nor the lengths keep them together.
    prompts = [prompt for prompt in PROMPTS[:3] for _ in strengths]
    rows = strengths * 3
    options = {"positions": positions, "temperature": temperature}
    alone = []
    for i, (prompt, row) in enumerate(zip(prompts, rows, strict=True)):
        alone += answers(model, [prompt], steering=[row], keys=[i], **options)
    sizes = batch_sizes(model, monkeypatch)
    together = answers(model, prompts, steering=rows, **options)
    assert sizes == [12]
    assert together == alone
    assert answers(model, prompts, steering=rows, batch_tokens=2 * TWO, **options) == alone
    by_strength = [tuple(together[i :: len(strengths)]) for i in range(len(strengths))]
    assert len(set(by_strength)) == len(strengths)
    if temperature == 0:
        assert list(by_strength[0]) == answers(model, PROMPTS[:3])


def test_steering_that_cannot_be_applied_is_found_before_any_work(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = tiny_model()
    vector = random_vector(model)
    other = random_vector(tiny_model(seed=1))
    sizes = batch_sizes(model, monkeypatch)
    shortest = min(range(5), key=lambda i: len(PROMPTS[i].ids))  # of the last batch

    def rows(entry: Steering) -> list[Steering | None]:
        return [entry if i == shortest else None for i in range(5)]

    with pytest.raises(VectorMismatchError, match="this vector belongs to"):
        answers(model, steering=rows(Steering(other)), batch_tokens=1)
    with unchecked(), pytest.raises(InputError, match="unknown direction 'up'"):
        answers(model, steering=rows(Steering(vector, "up")), batch_tokens=1)  # type: ignore[arg-type]
    with unchecked(), pytest.raises(InputError, match="unknown positions 'odd'"):
        answers(model, steering=rows(Steering(vector)), positions="odd", batch_tokens=1)
    with pytest.raises(InputError, match="steering has 2 entries for 5 prompts"):
        answers(model, steering=[Steering(vector), None])
    with pytest.raises(InputError, match="keys has 4 entries for 5 prompts"):
        answers(model, keys=range(4))
    with pytest.raises(InputError, match="the budget of a batch is 0 tokens"):
        answers(model, batch_tokens=0)
    for temperature in (-1.0, float("nan")):
        with pytest.raises(InputError, match=f"temperature is {temperature}; give 0 for greedy"):
            answers(model, temperature=temperature)
    with pytest.raises(InputError, match="top_k is 0; give 1 or more"):
        answers(model, temperature=1.0, top_k=0)
    for top_p in (0.0, 1.5, float("nan")):
        with pytest.raises(InputError, match=f"top_p is {top_p}; give a share above 0"):
            answers(model, temperature=1.0, top_p=top_p)
    assert sizes == []


# Sampling


def test_sampling_follows_its_seed() -> None:
    model = tiny_model()
    options = {"temperature": 1.0, "max_new_tokens": 12}
    first = answers(model, seed=1, **options)
    assert first == answers(model, seed=1, **options)
    assert first != answers(model, seed=2, **options)
    assert first != answers(model, max_new_tokens=12)
    torch.manual_seed(123)
    before = torch.get_rng_state()
    assert first == answers(model, seed=1, **options)
    assert torch.equal(torch.get_rng_state(), before)  # nor does it touch the global generator


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_a_sample_does_not_depend_on_its_neighbours(architecture: str) -> None:
    model = tiny_model(architecture)
    names = [f"prompt {i}" for i in range(5)]
    options: dict[str, Any] = {"temperature": 1.3, "max_new_tokens": 12, "seed": 3}
    together = answers(model, keys=names, **options)
    assert answers(model, keys=names, batch_tokens=TWO, **options) == together
    assert answers(model, PROMPTS[::-1], keys=names[::-1], **options)[::-1] == together
    for i, name in enumerate(names):
        assert answers(model, [PROMPTS[i]], keys=[name], **options) == [together[i]]
    assert answers(model, PROMPTS, keys=["same"] * 5, **options) != together


def test_a_row_that_ends_shifts_no_other() -> None:
    model = tiny_model()
    options: dict[str, Any] = {"temperature": 5.0, "max_new_tokens": 60}
    together = answers(model, **options)
    lengths = {len(text) for text in together}
    assert len(lengths) > 2  # several rows ended, at different steps
    for i, prompt in enumerate(PROMPTS):
        assert answers(model, [prompt], keys=[i], **options) == [together[i]]


def test_repeated_prompts_are_sampled_apart() -> None:
    options: dict[str, Any] = {"temperature": 1.3, "max_new_tokens": 12}
    model, prompts = tiny_model(), PROMPTS[:1] * 6
    assert len(set(answers(model, prompts, **options))) == 6
    assert len(set(answers(model, prompts, keys=["one"] * 6, **options))) == 1


def test_first_tokens_of_a_model_have_its_distribution() -> None:
    model, count = tiny_model(), 2000
    ids = torch.tensor([PROMPTS[0].ids] * count)
    logits = model(ids[:1]).logits[0, -1]
    shares = (logits.detach().double() / 2).softmax(-1)
    how = Decoding(max_new_tokens=1, temperature=2.0)
    output = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        **decoding(model, PAD, how, [row_seed(0, i) for i in range(count)]),
    )
    observed = output[:, -1].bincount(minlength=len(shares)).double()
    common = shares * count >= 5
    pooled = torch.stack([observed[~common].sum(), shares[~common].sum() * count])
    found = torch.cat([observed[common], pooled[:1]])
    expected = torch.cat([shares[common] * count, pooled[1:]])
    assert len(found) > 5
    assert stats.chisquare(found.numpy(), expected.numpy()).pvalue > 1e-3


def test_a_least_number_of_new_tokens() -> None:
    model = ending_model()
    inputs = PROMPTS[0].tensors()
    how = Decoding(max_new_tokens=8, temperature=0.05)
    options = decoding(model, PAD, how, [row_seed(0, 0)])
    width = len(PROMPTS[0].ids)
    assert model.generate(**inputs, **options).shape[1] == width + 1
    again = decoding(model, PAD, how, [row_seed(0, 0)])
    output = model.generate(**inputs, **again, min_new_tokens=4)[0, width:]
    assert len(output) >= 4
    assert CHAT.tokenizer.eos_token_id not in output[:4]


@pytest.mark.parametrize("use_cache", [True, False])
def test_the_cache_changes_no_sample(use_cache: bool) -> None:
    model = tiny_model()
    seeds = [row_seed(0, 0)]
    ids = torch.tensor([PROMPTS[0].ids])
    options = decoding(model, PAD, Decoding(max_new_tokens=8, temperature=1.3), seeds)
    output = model.generate(ids, use_cache=use_cache, **options)
    sampler = LogitsProcessorList([RowSampler(1.3, seeds)])
    for _ in range(8):
        token = sampler(ids, model(ids).logits[:, -1]).argmax(-1)
        ids = torch.cat([ids, token.unsqueeze(1)], 1)
    assert output.tolist() == ids[:, : output.shape[1]].tolist()
    assert output.shape[1] > len(PROMPTS[0].ids)
