import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import datasets
import pandas as pd
import pytest
import torch
from safetensors import safe_open

from concept_das.data.chat_format import ChatFormat
from concept_das.data.encoding import encode_quadruples
from concept_das.data.quadruples import data_hash
from concept_das.errors import InputError
from concept_das.evaluation.recovery import evaluate
from concept_das.methods.registry import find_method
from concept_das.models.blocks import find_site
from concept_das.steering.factors import measure_latents
from concept_das.steering.generation import generate_responses
from concept_das.steering.vector import ModelIdentity
from concept_das.training.loop import TrainingConfig, train_direction
from concept_das.training.vectors import Layers, train_vector, versions
from tests.concept_das.helpers import ROWS, tiny_chat, tiny_config, tiny_loaded, unchecked
from tests.tiny import LAYERS, MAX_POSITIONS

CONFIG = TrainingConfig(epochs=1, batch_size=2, rank=2, max_response_tokens=4)
BRIEFLY: dict[str, Any] = {"multipliers": (1.0,), "unrelated": ()}


def test_a_trained_vector_says_where_it_comes_from(tmp_path: Path) -> None:
    loaded, chat = tiny_loaded("qwen2"), tiny_chat(system="Be brief.", source_token=-2)
    kept, held = list(ROWS[:4]), list(ROWS[4:])
    trained = train_vector(loaded, chat, kept, held, -1, CONFIG, checkpoint=tmp_path)
    vector = trained.vector
    site = find_site(loaded.model, LAYERS - 1)
    rows = encode_quadruples(kept, chat, max_response_tokens=4)
    heldout = encode_quadruples(held, chat, max_response_tokens=4)
    expected = train_direction(loaded.model, site, rows, CONFIG, heldout=heldout)
    assert torch.equal(vector.weight, expected.weight)
    assert trained.history == expected.history
    latents = measure_latents(loaded.model, site, vector.weight, rows)
    torch.testing.assert_close(vector.negative_factor, latents.negative.mean(0))
    torch.testing.assert_close(vector.positive_factor, latents.positive.mean(0))
    assert (vector.layer, vector.operation, vector.method) == (LAYERS - 1, "clamp", "cdas")
    assert (vector.concept, vector.system, vector.source_token) == ("Pirate", "Be brief.", -2)
    assert vector.prefix_length == len(chat.prefix)
    assert vector.model == ModelIdentity.of(loaded.model, "tiny-qwen2")
    assert vector.recipe["learning_rate"] == CONFIG.learning_rate
    assert (vector.recipe["rows"], vector.recipe["best_epoch"]) == (4, 1)
    assert vector.data_hash == data_hash(kept)
    assert vector.versions["torch"] == version("torch")
    assert (tmp_path / "progress.safetensors").exists()


def test_the_seconds_of_a_vector_count_earlier_parts(tmp_path: Path) -> None:
    loaded, chat = tiny_loaded(), tiny_chat()
    first, again = (
        train_vector(loaded, chat, ROWS, [], 1, CONFIG, checkpoint=tmp_path) for _ in range(2)
    )
    with safe_open(tmp_path / "progress.safetensors", framework="pt") as file:
        kept = json.loads(file.metadata()["progress"])["seconds"]
    assert 0 < kept < min(first.seconds, again.seconds)
    config = find_method("diffmean").config()
    assert train_vector(loaded, chat, ROWS, [], 1, config).seconds > 0


COLUMNS = [asdict(row) for row in ROWS]


@pytest.mark.parametrize("kind", ["dicts", "frame", "data set", "file", "quadruples"])
def test_objects_that_a_user_has(kind: str, tmp_path: Path) -> None:
    loaded = tiny_loaded()
    expected = train_vector(loaded, tiny_chat(), list(ROWS), [], 1, CONFIG).vector
    frame = pd.DataFrame(COLUMNS)
    frame.to_csv(tmp_path / "rows.csv", index=False)
    rows = {
        "dicts": COLUMNS,
        "frame": frame,
        "data set": datasets.Dataset.from_list(COLUMNS),
        "file": tmp_path / "rows.csv",
        "quadruples": ROWS,
    }[kind]
    loaded.model.train()
    found = train_vector(loaded.model, loaded.tokenizer, rows, layer=1, config=CONFIG).vector
    assert torch.equal(found.weight, expected.weight)
    assert found.data_hash == expected.data_hash
    assert found.model.name == "LlamaForCausalLM"
    assert loaded.model.training
    chat = ChatFormat.of(loaded.tokenizer)
    answers = generate_responses(loaded.model, chat, ["Hi"], steering=found, max_new_tokens=3)
    assert len(answers) == 1
    assert len(evaluate(loaded.model, chat, found, ROWS, **BRIEFLY).table) > 0


def test_data_that_cannot_be_trained_on() -> None:
    loaded = tiny_loaded()
    model, tokenizer = loaded.model, loaded.tokenizer
    with pytest.raises(InputError, match="there are no training rows"):
        train_vector(model, tokenizer, [], layer=1)
    with pytest.raises(InputError, match="has no column 'negative_input'"):
        train_vector(model, tokenizer, [{"text": "a"}], layer=1)
    with pytest.raises(InputError, match="several concepts; give those of one"):
        train_vector(model, tokenizer, [*ROWS, replace(ROWS[0], concept_id=4)], layer=1)
    with pytest.raises(InputError, match="no block is named to act at"):
        train_vector(model, tokenizer, ROWS)
    tokenizer.chat_template = None
    with pytest.raises(InputError, match="pass chat_template, plain for a base model"):
        train_vector(model, tokenizer, ROWS, layer=1)


def test_a_base_model_with_the_plain_template() -> None:
    loaded = tiny_loaded("gpt2")
    loaded.tokenizer.chat_template = None
    chat = ChatFormat.of(loaded.tokenizer, chat_template="plain", system="Be brief.")
    prompt = chat.prompt("Hi")
    assert loaded.tokenizer.decode(prompt.ids) == (
        "<|im_start|>System:\nBe brief.\n\nUser:\nHi\n\nAssistant:\n"
    )
    vector = train_vector(loaded.model, chat, ROWS, ROWS[:1], 1, CONFIG).vector
    again = ChatFormat.of(
        loaded.tokenizer, chat_template=vector.chat["template"], system="Be brief."
    )
    assert again.description == chat.description
    assert generate_responses(loaded.model, again, ["Hi"], steering=vector, max_new_tokens=2)


def test_training_stops_when_it_is_told() -> None:
    loaded, told = tiny_loaded(), list[dict[str, float]]()

    def stop(numbers: Mapping[str, float]) -> bool:
        told.append(dict(numbers))
        return len(told) == 2

    config = replace(CONFIG, epochs=5)
    trained = train_vector(loaded, tiny_chat(), ROWS[:4], ROWS[4:], 1, config, on_epoch=stop)
    assert [numbers["epoch"] for numbers in told] == [1, 2]
    assert {"loss", "heldout_loss", "step"} <= set(told[0])
    assert trained.vector.recipe["best_epoch"] == 2
    assert [record["epoch"] for record in trained.history][-1] == 2


def test_a_model_in_float16() -> None:
    loaded = tiny_loaded()
    expected = train_vector(loaded, tiny_chat(), ROWS, (), 1, CONFIG).vector
    loaded.model.half()
    found = train_vector(loaded.model, loaded.tokenizer, ROWS, (), 1, CONFIG).vector
    torch.testing.assert_close(found.weight, expected.weight, atol=0.02, rtol=0)
    table = evaluate(loaded.model, tiny_chat(), found, ROWS, **BRIEFLY).table
    assert table["gain_elicit"].notna().all()


def test_rows_longer_than_the_models_context() -> None:
    loaded, chat = tiny_loaded("gpt2"), tiny_chat()
    long = type(ROWS[0])("a " * MAX_POSITIONS, "b", "c", "d")
    with pytest.raises(InputError, match=f"row 1 needs .* but the model takes {MAX_POSITIONS}"):
        loaded.encode(chat, [ROWS[0], long], CONFIG.max_response_tokens)


def test_the_layers_of_a_method_that_acts_at_several() -> None:
    loaded, chat = tiny_loaded(), tiny_chat()
    config = tiny_config("loreft", epochs=1, batch_size=2, rank=1, max_response_tokens=4)
    expected = train_vector(loaded, chat, ROWS[:2], [], 0, replace(config, layers=(0, 2))).vector
    found = train_vector(loaded, chat, ROWS[:2], [], [0, 2], config).vector
    assert found.layers == (0, 2)
    assert found.describe() == expected.describe()


def test_the_layers_of_a_vector() -> None:
    loaded, chat = tiny_loaded(), tiny_chat()

    def layers_of(layer: Layers, **changed: Any) -> tuple[int, ...]:
        config = replace(CONFIG, epochs=1, **changed)
        vector = train_vector(loaded, chat, ROWS[:2], [], layer, config).vector
        several = layer is None or not isinstance(layer, int)
        assert len(vector.recipe["layers"]) == (len(vector.layers) if len(vector.layers) > 1 else 0)
        assert several or len(vector.layers) == 1
        return vector.layers

    assert layers_of(-1) == layers_of((3,)) == layers_of((3,), method="diffmean") == (3,)
    assert layers_of((2, 1)) == layers_of(None, layers=(1, -2)) == (1, 2)
    assert layers_of("spread") == layers_of(None, layers="spread") == (0, 1, 2, 3)
    with pytest.raises(InputError, match="layer and layers are both given; give one"):
        layers_of(1, layers=(1, 2))
    with pytest.raises(InputError, match="no block is named to act at; give a layer"):
        layers_of(None)
    with pytest.raises(InputError, match="a layer is given twice; name each once"):
        layers_of((1, 1))
    with (
        unchecked(),
        pytest.raises(InputError, match="layers is 'all'; give numbers of blocks, or spread"),
    ):
        layers_of(None, layers="all")
    with pytest.raises(InputError, match="diffmean acts at one layer; give --layer"):
        layers_of((1, 2), method="diffmean")


def test_versions_of_what_can_change_a_number() -> None:
    assert set(versions()) >= {"python", "torch", "transformers", "pyvene", "numpy"}
