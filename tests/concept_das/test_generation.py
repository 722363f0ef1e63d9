import pytest
import torch

from concept_das.generation import generate_responses
from concept_das.steering import steer
from tests.concept_das.helpers import ROWS, random_vector, tiny_chat
from tests.tiny import tiny_model

CHAT = tiny_chat()
PROMPTS = [CHAT.prompt(row.negative_input) for row in ROWS]


def test_answers_come_in_the_order_of_the_prompts() -> None:
    model = tiny_model()
    together = generate_responses(model, CHAT, PROMPTS, max_new_tokens=6, batch_size=2)
    alone = [generate_responses(model, CHAT, [prompt], max_new_tokens=6)[0] for prompt in PROMPTS]
    assert together == alone
    assert len(set(together)) > 1
    backwards = generate_responses(model, CHAT, PROMPTS[::-1], max_new_tokens=6, batch_size=3)
    assert backwards[::-1] == together


def test_an_answer_is_the_models_greedy_continuation() -> None:
    model = tiny_model("gpt2")
    ids = list(PROMPTS[0].ids)
    for _ in range(5):
        ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
    expected = CHAT.tokenizer.decode(ids[len(PROMPTS[0].ids) :], skip_special_tokens=True)
    (found,) = generate_responses(model, CHAT, PROMPTS[:1], max_new_tokens=5)
    assert found == expected.strip()


def test_an_answer_ends_at_the_end_of_the_turn() -> None:
    model = tiny_model()
    with torch.no_grad():
        model.lm_head.weight.zero_()
        model.lm_head.weight[:, 0] = 1e-3
        state = model.model(torch.tensor([PROMPTS[0].ids])).last_hidden_state[0, -1]
        model.lm_head.weight[CHAT.tokenizer.eos_token_id] = state
    assert generate_responses(model, CHAT, PROMPTS[:1], max_new_tokens=5) == [""]


def test_sampling_follows_its_seed() -> None:
    model = tiny_model()

    def sample(seed: int) -> list[str]:
        return generate_responses(
            model, CHAT, PROMPTS, max_new_tokens=12, temperature=1.0, seed=seed
        )

    assert sample(1) == sample(1)
    assert sample(1) != sample(2)
    assert sample(1) != generate_responses(model, CHAT, PROMPTS, max_new_tokens=12)


def test_the_models_own_sampling_options_do_not_matter() -> None:
    model = tiny_model()
    expected = generate_responses(model, CHAT, PROMPTS, max_new_tokens=6)
    model.generation_config.update(do_sample=True, temperature=0.6, top_k=3, top_p=0.5)
    assert generate_responses(model, CHAT, PROMPTS, max_new_tokens=6) == expected


def test_finished_batches_are_handed_out() -> None:
    batches: list[tuple[list[int], list[str]]] = []
    texts = generate_responses(
        tiny_model(),
        CHAT,
        PROMPTS,
        max_new_tokens=4,
        batch_size=2,
        on_batch=lambda indices, found: batches.append((indices, found)),
    )
    assert [len(indices) for indices, _ in batches] == [2, 2, 1]
    handed = {i: text for indices, found in batches for i, text in zip(indices, found, strict=True)}
    assert [handed[i] for i in range(len(PROMPTS))] == texts


def test_no_prompts_no_answers() -> None:
    assert generate_responses(tiny_model(), CHAT, []) == []


@pytest.mark.parametrize("positions", ["all", "prompt", "generated"])
def test_answers_are_steered_inside_a_block(positions: str) -> None:
    model = tiny_model()
    plain = generate_responses(model, CHAT, PROMPTS, max_new_tokens=8)
    with steer(model, random_vector(model), positions=positions):
        steered = generate_responses(model, CHAT, PROMPTS, max_new_tokens=8, batch_size=2)
        assert steered == generate_responses(model, CHAT, PROMPTS, max_new_tokens=8, batch_size=5)
    assert steered != plain
    assert generate_responses(model, CHAT, PROMPTS, max_new_tokens=8) == plain
