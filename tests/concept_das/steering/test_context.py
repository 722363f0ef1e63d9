import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import pyvene as pv
import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel, TextStreamer

from concept_das.errors import InputError, VectorMismatchError
from concept_das.models.blocks import capture
from concept_das.steering.context import Steering, check_steering, steer
from concept_das.steering.vector import SteeringVector
from interventions import ClampIntervention, coordinates
from tests.concept_das.helpers import (
    EVERY_ARCHITECTURE,
    PAD,
    random_vector,
    tiny_chat,
    unchecked,
    vector_at,
)
from tests.concept_das.steering.generating import (
    NEW,
    PREFIX,
    PROMPTS,
    clamped,
    generated,
    generating_model,
    inputs_of,
    state_of,
)
from tests.tiny import TINY_ARCHITECTURES, WIDTH, tiny_model


class _Boom(Exception):
    pass


@EVERY_ARCHITECTURE
@pytest.mark.parametrize("positions", ["all", "prompt", "generated"])
def test_the_model_is_as_it_was_after_the_block(architecture: str, positions: Any) -> None:
    model = tiny_model(architecture)
    vector, state = random_vector(model), state_of(model)
    weights = copy.deepcopy(model.state_dict())
    inputs = inputs_of(PROMPTS)
    expected = model(**inputs).logits
    with steer(model, vector, positions=positions):
        generated(model, PROMPTS[:1])
    with pytest.raises(_Boom), steer(model, vector, positions=positions):
        generated(model, PROMPTS[:1])
        raise _Boom
    assert state_of(model) == state
    assert torch.equal(model(**inputs).logits, expected)
    assert all(torch.equal(weights[name], value) for name, value in model.state_dict().items())


def test_an_exception_inside_generate_is_survived() -> None:
    model = tiny_model()
    state = state_of(model)
    with steer(model, random_vector(model), positions="generated"):
        with pytest.raises(IndexError):
            model.generate(torch.tensor([[10**6]]), max_new_tokens=1)
        with pytest.raises(
            InputError, match="needs prompt_lengths"
        ):  # not those of the failed call
            model(**inputs_of(PROMPTS[:1]))
    assert state_of(model) == state


def test_the_users_hooks_and_own_generate_stay() -> None:
    model = tiny_model()
    calls = []
    model.model.layers[1].register_forward_hook(lambda *_: calls.append("hook"))
    original = model.generate

    def own(*args: Any, **kwargs: Any) -> Any:
        calls.append("generate")
        return original(*args, **kwargs)

    model.generate = own
    with steer(model, random_vector(model), positions="generated"):
        generated(model, PROMPTS[:1], max_new_tokens=1, min_new_tokens=1)
    assert calls == ["generate", "hook"]
    assert model.generate is own
    model(**inputs_of(PROMPTS[:1]))
    assert calls[2:] == ["hook"]


def captured(
    model: PreTrainedModel, vector: SteeringVector, run: Callable[[], Any], **options: Any
) -> tuple[list[Tensor], Tensor]:
    """Hidden states of every pass at the site, with the steering in them, and the target."""
    with steer(model, vector, **options), capture(model, vector.site(model)) as seen:
        run()
    return seen, vector.target("elicit")


@EVERY_ARCHITECTURE
@pytest.mark.parametrize("rank", [1, 3])
@pytest.mark.parametrize("side", ["left", "right"])
def test_clamped_from_the_prefix_on_and_nowhere_else(
    architecture: str, rank: int, side: Any
) -> None:
    model = tiny_model(architecture)
    vector, inputs = random_vector(model, rank=rank), inputs_of(PROMPTS, side)
    with capture(model, vector.site(model)) as seen:
        model(**inputs)
    (plain,) = seen
    seen, target = captured(model, vector, lambda: model(**inputs))
    (steered,) = seen
    for row, prompt in enumerate(PROMPTS):
        own = inputs["attention_mask"][row].bool()
        before, after = plain[row, own], steered[row, own]
        assert torch.equal(after[:PREFIX], before[:PREFIX])
        reached = coordinates(after[PREFIX:], vector.weight)
        assert len(reached) == len(prompt.ids) - PREFIX
        torch.testing.assert_close(reached, target.expand_as(reached))
        outside = torch.eye(WIDTH) - vector.weight.T @ vector.weight
        torch.testing.assert_close(after @ outside, before @ outside, atol=1e-5, rtol=1e-5)
        assert torch.equal(steered[row, ~own], plain[row, ~own])


def test_add_moves_by_the_amount() -> None:
    model = tiny_model()
    vector, inputs = random_vector(model, rank=2, operation="add"), inputs_of(PROMPTS[:1])
    with capture(model, vector.site(model)) as seen:
        model(**inputs)
    (plain,) = seen
    (steered,), target = captured(model, vector, lambda: model(**inputs))
    moved = steered[0] - plain[0]
    expected = (target @ vector.weight).expand(moved.shape[0] - PREFIX, -1)
    torch.testing.assert_close(moved[PREFIX:], expected, atol=1e-5, rtol=1e-5)
    assert not moved[:PREFIX].any()


@EVERY_ARCHITECTURE
def test_generation_is_the_same_with_and_without_cache(architecture: str) -> None:
    model = generating_model(architecture)
    plain = generated(model, PROMPTS)
    for positions in ("all", "prompt", "generated"):
        with steer(model, random_vector(model), positions=positions):
            cached = generated(model, PROMPTS, use_cache=True)
            assert generated(model, PROMPTS, use_cache=False) == cached
        assert cached != plain
    assert generated(model, PROMPTS) == plain


@EVERY_ARCHITECTURE
@pytest.mark.parametrize("positions", ["all", "prompt", "generated"])
def test_a_batch_is_steered_as_its_rows_alone(architecture: str, positions: Any) -> None:
    model = generating_model(architecture)
    with steer(model, random_vector(model), positions=positions):
        together = generated(model, PROMPTS)
        alone = [generated(model, [prompt])[0] for prompt in PROMPTS]
    assert together == alone


@EVERY_ARCHITECTURE
def test_each_row_with_its_own_vector(architecture: str) -> None:
    model = generating_model(architecture)
    rows = [
        Steering(random_vector(model, layer=1, rank=3, seed=1), "elicit", 1.5),
        None,
        Steering(random_vector(model, layer=2, operation="add", seed=2), "suppress"),
        Steering(random_vector(model, layer=1, seed=3), "suppress", 0.5, "interpolate"),
    ]
    with steer(model, rows):
        together = generated(model, PROMPTS)
    for prompt, row, tokens in zip(PROMPTS, rows, together, strict=True):
        with steer(model, [row]):
            assert generated(model, [prompt])[0] == tokens
    plain = generated(model, PROMPTS)
    assert together[1] == plain[1]
    assert together != plain


def test_clamp_and_add_in_one_batch_at_one_site() -> None:
    model = tiny_model()
    clamp, add = random_vector(model, rank=2), random_vector(model, operation="add", seed=1)
    inputs = inputs_of(PROMPTS[:2])
    with steer(model, [Steering(clamp), Steering(add)]), capture(model, clamp.site(model)) as seen:
        model(**inputs)
    for row, vector in enumerate((clamp, add)):
        with steer(model, vector), capture(model, clamp.site(model)) as alone:
            model(**inputs)
        torch.testing.assert_close(seen[0][row], alone[0][row])


@pytest.mark.parametrize(
    ("architecture", "operation"), [*((a, "clamp") for a in TINY_ARCHITECTURES), ("llama", "add")]
)
def test_several_sites_equal_a_block_for_each(architecture: str, operation: str) -> None:
    model = generating_model(architecture)
    both = vector_at(model, (0, 2), operation=operation)
    low, high = (replace(both, sites=(site,)) for site in both.sites)
    with steer(model, low, multiplier=0.5), steer(model, high, multiplier=0.5):
        expected = model(**inputs_of(PROMPTS)).logits
    with steer(model, both, multiplier=0.5):
        found = model(**inputs_of(PROMPTS)).logits
    assert torch.equal(found, expected)
    with steer(model, [None, Steering(both), Steering(low), Steering(high)]):
        together = generated(model, PROMPTS)
    for prompt, vector, tokens in zip(PROMPTS[1:], (both, low, high), together[1:], strict=True):
        with steer(model, vector):
            assert generated(model, [prompt])[0] == tokens


def test_rows_without_any_vector_are_left_alone() -> None:
    model = tiny_model()
    plain = generated(model, PROMPTS[:2])
    with steer(model, [None, None]):
        assert generated(model, PROMPTS[:2]) == plain


def test_a_direct_call_without_a_mask_and_with_a_cache() -> None:
    model = tiny_model()
    ids = torch.tensor([PROMPTS[2].ids])
    with steer(model, random_vector(model)):
        whole = model(ids).logits
        cache = DynamicCache()
        first = model(ids[:, :30], past_key_values=cache, use_cache=True).logits
        second = model(ids[:, 30:], past_key_values=cache, use_cache=True).logits
    torch.testing.assert_close(torch.cat([first, second], 1), whole, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(whole, model(ids).logits)


def test_embeddings_as_inputs() -> None:
    model = tiny_model()
    ids = torch.tensor([PROMPTS[0].ids])
    embeddings = model.get_input_embeddings()(ids)
    mask = torch.ones_like(ids)
    for positions in ("all", "generated"):
        with steer(model, random_vector(model), positions=positions):
            expected = generated(model, PROMPTS[:1])
            found = model.generate(
                inputs_embeds=embeddings,
                attention_mask=mask,
                max_new_tokens=NEW,
                min_new_tokens=NEW,
                do_sample=False,
                pad_token_id=PAD,
            )
        assert found.tolist() == expected


def test_a_given_factor_takes_the_measured_ones_place() -> None:
    model = tiny_model()
    vector = random_vector(model, rank=2)
    factor = torch.tensor([9.0, -9.0])
    assert torch.equal(Steering(vector, factor=factor).target(), factor)
    other = replace(vector, positive_factor=factor)
    with steer(model, Steering(vector, factor=factor)):
        found = generated(model, PROMPTS)
    with steer(model, other):
        assert generated(model, PROMPTS) == found


def test_a_factor_of_another_rank() -> None:
    vector = random_vector(tiny_model(), rank=2)
    with unchecked(), pytest.raises(InputError, match=r"factor has shape \(3,\); expected \(2,\)"):
        Steering(vector, factor=torch.zeros(3)).target()


def test_a_factor_is_of_one_site() -> None:
    vector = vector_at(tiny_model(), (0, 2))
    with pytest.raises(InputError, match="acts at the layers 0, 2"):
        Steering(vector, factor=torch.zeros(1)).check()


@pytest.mark.parametrize("positions", ["all", "prompt", "generated"])
@pytest.mark.parametrize(
    "options", [{"num_beams": 3}, {"num_beams": 4, "num_return_sequences": 2}], ids=str
)
def test_beam_search(positions: Any, options: dict[str, int]) -> None:
    model = tiny_model()
    rows = [Steering(random_vector(model, seed=i)) for i in range(4)]
    with steer(model, rows, positions=positions):
        together = generated(model, PROMPTS, **options)
        assert generated(model, PROMPTS, use_cache=False, **options) == together
    alone = []
    for prompt, row in zip(PROMPTS, rows, strict=True):
        with steer(model, row, positions=positions):
            alone += generated(model, [prompt], **options)
    assert together == alone


def test_several_samples_of_a_prompt() -> None:
    model = tiny_model()
    rows = [Steering(random_vector(model)), None]
    with steer(model, rows), capture(model, rows[0].vector.site(model)) as seen:
        samples = generated(model, PROMPTS[:2], do_sample=True, num_return_sequences=3)
    hits = clamped(seen[-1], rows[0].vector)
    assert hits.flatten().tolist() == [True] * 3 + [False] * 3
    assert len({tuple(sample) for sample in samples}) > 1


def test_streaming(capsys: pytest.CaptureFixture[str]) -> None:
    model, tokenizer = tiny_model(), tiny_chat().tokenizer
    streamer = TextStreamer(tokenizer, skip_prompt=True, skip_special_tokens=True)
    with steer(model, random_vector(model)):
        (expected,) = generated(model, PROMPTS[:1])
        generated(model, PROMPTS[:1], streamer=streamer)
    text = tokenizer.decode(expected, skip_special_tokens=True)
    assert capsys.readouterr().out.strip("\n") == text.strip("\n")


def test_a_static_cache() -> None:
    model = tiny_model()
    for positions in ("all", "generated"):
        with steer(model, random_vector(model), positions=positions):
            expected = generated(model, PROMPTS)
            found = generated(model, PROMPTS, cache_implementation="static")
        assert found == expected


@pytest.mark.parametrize("operation", ["clamp", "add"])
def test_a_model_in_bfloat16(operation: Any) -> None:
    model = tiny_model().to(torch.bfloat16)
    vector = random_vector(model, rank=2, operation=operation)
    inputs = inputs_of(PROMPTS[:1])
    with capture(model, vector.site(model)) as plain:
        model(**inputs)
    seen, target = captured(model, vector, lambda: model(**inputs))
    assert seen[0].dtype == torch.bfloat16
    assert torch.equal(seen[0][:, :PREFIX], plain[0][:, :PREFIX])
    if operation == "clamp":
        reached = coordinates(seen[0][0, PREFIX:], vector.weight)
        torch.testing.assert_close(reached, target.expand_as(reached), atol=0.05, rtol=0)
    else:
        moved = seen[0][0, PREFIX:].float() - plain[0][0, PREFIX:].float()
        expected = (target @ vector.weight).expand_as(moved)
        torch.testing.assert_close(moved, expected, atol=0.05, rtol=0)
    with steer(model, vector):
        assert len(generated(model, PROMPTS)[0]) == NEW


@EVERY_ARCHITECTURE
@pytest.mark.parametrize("use_cache", [True, False])
def test_equals_the_plain_pyvene_path(architecture: str, use_cache: bool) -> None:
    model = generating_model(architecture)
    vector = random_vector(model, rank=2)
    inputs = inputs_of(PROMPTS)
    mask = torch.zeros_like(inputs["attention_mask"], dtype=torch.bool)
    for row, prompt in enumerate(PROMPTS):
        mask[row, mask.shape[1] - len(prompt.ids) + PREFIX :] = True
    with steer(model, vector, multiplier=0.7):
        steered = generated(model, PROMPTS, use_cache=use_cache)
    clamp = ClampIntervention(weight=vector.weight, factor=vector.target("elicit", 0.7))
    wrapped = pv.IntervenableModel(
        {"component": vector.site(model).component, "intervention": clamp}, model
    )
    _, output = wrapped.generate(
        inputs,
        unit_locations=None,
        intervene_on_prompt=True,
        intervention_additional_kwargs={"position_mask": mask},
        max_new_tokens=NEW,
        min_new_tokens=NEW,
        do_sample=False,
        pad_token_id=PAD,
        use_cache=use_cache,
        **({} if use_cache else {"cache_implementation": None}),
    )
    assert output[:, mask.shape[1] :].tolist() == steered


def test_two_blocks_inside_each_other() -> None:
    model = tiny_model()
    outer, inner = random_vector(model, layer=1), random_vector(model, layer=2, seed=1)
    with steer(model, outer, positions="generated"):
        expected = generated(model, PROMPTS)
        with steer(model, inner, positions="generated"):
            both = generated(model, PROMPTS)
        assert generated(model, PROMPTS) == expected
    with steer(model, inner, positions="generated"):
        assert generated(model, PROMPTS) not in (both, expected)
    assert both != expected


@pytest.mark.parametrize("batch", [1, 2, 4])
def test_rows_that_do_not_fit_the_batch(batch: int) -> None:
    model = tiny_model()
    rows = [Steering(random_vector(model))] * 3
    with (
        steer(model, rows),
        pytest.raises(InputError, match=f"given for 3 rows but the batch has {batch}"),
    ):
        model(**inputs_of(PROMPTS[:batch]))


def test_a_vector_of_another_model() -> None:
    model = tiny_model()
    state = state_of(model)
    other = Steering(random_vector(tiny_model(seed=1)))
    message = "this vector belongs to .* load that model"
    with pytest.raises(VectorMismatchError, match=message), steer(model, other):
        raise AssertionError("entered")
    rows = [Steering(random_vector(model)), other]
    with pytest.raises(VectorMismatchError, match=message), steer(model, rows):
        raise AssertionError("entered")
    assert state_of(model) == state


def test_vectors_of_one_model_describe_it_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model()
    rows = [Steering(random_vector(model, seed=i)) for i in range(4)]
    described = []
    original = SteeringVector.check_model
    monkeypatch.setattr(
        SteeringVector,
        "check_model",
        lambda self, model, **how: described.append(self) or original(self, model, **how),
    )
    with steer(model, [*rows, None]):
        pass
    assert len(described) == 1
    other = Steering(random_vector(tiny_model(seed=1)))
    with pytest.raises(VectorMismatchError):
        check_steering(model, [*((row,) for row in rows), (), (other,)], "all")


@pytest.mark.parametrize(
    ("direction", "positions", "message"),
    [
        ("up", "all", "unknown direction 'up'"),
        ("elicit", "odd", "unknown positions 'odd'; choose all, prompt or generated"),
    ],
)
def test_what_is_unknown_is_found_on_entry(direction: Any, positions: str, message: str) -> None:
    model = tiny_model()
    with (
        unchecked(),
        pytest.raises(InputError, match=message),
        steer(model, [None, Steering(random_vector(model), direction)], positions=positions),
    ):
        raise AssertionError("entered")
    assert state_of(model) == state_of(tiny_model())
