import pytest
import torch

from concept_das.data.chat_format import ChatFormat
from concept_das.data.encoding import encode_quadruples
from concept_das.errors import InputError
from concept_das.models.blocks import find_site
from concept_das.steering.factors import Latents, measure_latents, source_states
from tests.concept_das.helpers import (
    EVERY_ARCHITECTURE,
    PLANTED_ROWS,
    ROWS,
    encoded_rows,
    plain_hidden,
    planted_model,
    random_vector,
    tiny_chat,
)
from tests.tiny import WIDTH, tiny_model


@EVERY_ARCHITECTURE
@pytest.mark.parametrize("rank", [1, 2])
def test_latents_by_hand(architecture: str, rank: int) -> None:
    model, rows = tiny_model(architecture), encoded_rows()
    weight = random_vector(model, rank=rank).weight
    latents = measure_latents(model, find_site(model, 2), weight, rows, batch_size=2)
    for kind, prompts in (
        ("negative", [row.elicit.base.prompt for row in rows]),
        ("positive", [row.elicit.source.prompt for row in rows]),
    ):
        with torch.no_grad():
            states = [
                plain_hidden(model, 2, prompt.with_response(()))[prompt.source_position]
                for prompt in prompts
            ]
        expected = torch.stack(states) @ weight.T
        found = getattr(latents, kind)
        torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-4)
        factor = getattr(latents, f"{kind}_factor")
        assert factor.shape == (rank,)
        torch.testing.assert_close(factor, expected.mean(dim=0), atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("source_token", [-1, -4, 0])
def test_the_state_is_read_at_the_source_token(source_token: int) -> None:
    model = tiny_model()
    chat = tiny_chat(source_token=source_token)
    prompts = [chat.prompt(row.positive_input) for row in ROWS]
    (found,) = source_states(model, [find_site(model, 1)], prompts, batch_size=16)
    for prompt, state in zip(prompts, found, strict=True):
        expected = plain_hidden(model, 1, prompt.with_response(()))[prompt.source_position]
        torch.testing.assert_close(state, expected, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_batches_change_nothing(batch_size: int) -> None:
    model = tiny_model("gemma2")
    site, weight = find_site(model, 1), random_vector(model).weight
    expected = measure_latents(model, site, weight, encoded_rows(), batch_size=2)
    found = measure_latents(model, site, weight, encoded_rows(), batch_size=batch_size)
    torch.testing.assert_close(found.negative, expected.negative, atol=2e-5, rtol=1e-4)
    torch.testing.assert_close(found.positive, expected.positive, atol=2e-5, rtol=1e-4)


def test_the_planted_concept_is_apart_from_the_neutral_prompts() -> None:
    model = planted_model()
    latents = measure_latents(
        model, find_site(model, 0), torch.eye(WIDTH)[:1], encoded_rows(rows=PLANTED_ROWS)
    )
    # Five marks among all tokens up to the source, each worth 32.
    lengths = [len(row.elicit.source.prompt.ids) for row in encoded_rows(rows=PLANTED_ROWS)]
    expected = torch.tensor([[5 * 32 / length] for length in lengths])
    torch.testing.assert_close(latents.positive, expected, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(latents.negative, torch.zeros(len(PLANTED_ROWS), 1))


def test_a_model_in_bfloat16_is_read_in_float32() -> None:
    model = tiny_model().to(torch.bfloat16)
    weight = random_vector(model).weight
    latents = measure_latents(model, find_site(model, 1), weight, encoded_rows())
    assert latents.negative.dtype == torch.float32
    exact = measure_latents(tiny_model(), find_site(model, 1), weight, encoded_rows())
    torch.testing.assert_close(latents.positive, exact.positive, atol=0.1, rtol=0.1)


@pytest.mark.parametrize(("column", "row"), [("negative_input", 3), ("positive_input", 1)])
def test_nan_names_row_and_column(column: str, row: int) -> None:
    model, chat = tiny_model(), ChatFormat.of(tiny_chat().tokenizer)
    changed = [
        type(r)(**{**vars(r), column: getattr(r, column) + "~"}) if i == row else r
        for i, r in enumerate(ROWS)
    ]
    with torch.no_grad():
        (token,) = chat.text_ids("~")
        model.get_input_embeddings().weight[token] = float("nan")
    message = f"factor of row {row}, {column}, is NaN or Inf at layer 1; load the model in float32"
    with pytest.raises(InputError, match=message):
        measure_latents(
            model,
            find_site(model, 1),
            random_vector(tiny_model()).weight,
            encode_quadruples(changed, chat),
        )


def test_factors_are_means_over_rows() -> None:
    latents = Latents(
        torch.tensor([[1.0, 2.0], [3.0, 6.0]]), torch.tensor([[0.0, -1.0], [0.0, -3.0]])
    )
    assert latents.negative_factor.tolist() == [2.0, 4.0]
    assert latents.positive_factor.tolist() == [0.0, -2.0]
