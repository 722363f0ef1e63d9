"""Vectors are shared on a hub and read from it; what is no vector is named in a sentence."""

import csv
import json
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import HfApi, ModelCard

from concept_das.data.chat_format import ChatFormat
from concept_das.errors import InputError, VectorMismatchError
from concept_das.models.identity import ModelIdentity
from concept_das.steering.artifact import load_vector
from concept_das.steering.card import chat_arguments
from concept_das.steering.hub import is_hub_id
from concept_das.steering.vector import SteeringVector
from tests.concept_das.helpers import random_vector, tiny_loaded
from tests.hub import STRANGER, TOKEN, Hub, check_card, go_offline
from tests.tiny import CHAT_TEMPLATE, tiny_model, tiny_tokenizer

METRICS = {
    "elicitation_recovery": 0.75,
    "multiplier_elicit": 1.5,
    "heldout_jsd_elicit": 0.02,
    "kl_side_effect_elicit": 0.1,
    "suppression_recovery": 0.9,
    "multiplier_suppress": 1.0,
}


def pirate(**fields: Any) -> SteeringVector:
    return random_vector(tiny_model(), concept="Talk like a pirate", metrics=METRICS, **fields)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """The folder of a run, with what its card tells."""
    folder = tmp_path / "run"
    folder.mkdir()
    with (folder / "evaluation.csv").open("w", newline="") as file:
        names = ["multiplier", "elicitation_recovery"]
        names += ["elicitation_recovery_low", "elicitation_recovery_high"]
        writer = csv.writer(file)
        writer.writerows([names, [1.0, 0.5, 0.4, 0.6], [1.5, 0.75, 0.625, 0.875]])
    answers = [["unsteered", "Tea | is <b>\nhot."], ["elicited", "Arr!"]]
    samples = [{"instruction": f"Question {n}?", "answers": answers} for n in range(5)]
    (folder / "samples.json").write_text(json.dumps(samples))
    (folder / "config.yaml").write_text("data: name/pirate-rows\nout: /somewhere/else\n")
    return folder


def same(one: SteeringVector, other: SteeringVector) -> bool:
    return one.describe() == other.describe() and torch.equal(one.weight, other.weight)


def test_a_vector_is_shared_and_read_again(hub: Hub) -> None:
    vector = pirate()
    address = vector.push_to_hub("name/pirate", token=TOKEN)
    assert address == f"{hub.url}/name/pirate"
    assert {"README.md", "vector.json", "vector.safetensors"} == set(hub.files("name/pirate"))
    read = load_vector("name/pirate", tiny_loaded())
    assert isinstance(read, SteeringVector)
    assert same(read, vector)
    assert same(SteeringVector.load("name/pirate"), vector)
    with pytest.raises(VectorMismatchError, match="belongs to"):
        load_vector("name/pirate", tiny_model(seed=1))


def test_revisions(hub: Hub) -> None:
    first, second = pirate(), pirate(seed=1)
    first.push_to_hub("name/pirate", token=TOKEN)
    commit = HfApi(token=TOKEN).model_info("name/pirate").sha
    second.push_to_hub("name/pirate", token=TOKEN)
    pirate(seed=2).push_to_hub("name/pirate", token=TOKEN, revision="next")
    assert same(SteeringVector.load("name/pirate"), second)
    assert same(SteeringVector.load("name/pirate", revision=commit), first)
    assert same(SteeringVector.load(f"name/pirate@{commit}"), first)
    assert same(SteeringVector.load("name/pirate@next"), pirate(seed=2))
    with pytest.raises(InputError, match="name/pirate on the hub has no revision 'none'"):
        load_vector("name/pirate", revision="none")
    with pytest.raises(InputError, match="names a revision already"):
        load_vector("name/pirate@next", revision="next")


def test_what_is_private_needs_the_token(hub: Hub) -> None:
    pirate().push_to_hub("name/pirate", token=TOKEN, private=True)
    for token in (False, STRANGER):
        with pytest.raises(InputError, match="no repository of that name .* `hf auth login`"):
            load_vector("name/pirate", token=token)
    assert same(SteeringVector.load("name/pirate", token=TOKEN), pirate())


def test_without_a_connection_the_cache_is_read(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    pirate().push_to_hub("name/pirate", token=TOKEN)
    load_vector("name/pirate")
    pirate().push_to_hub("name/other", token=TOKEN)
    go_offline(monkeypatch)
    asked = len(hub.asked)
    assert same(SteeringVector.load("name/pirate"), pirate())
    with pytest.raises(InputError, match="name/other is not in its cache"):
        load_vector("name/other")
    assert len(hub.asked) == asked


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"config.json": "{}"}, "name/it on the hub holds no vector"),
        ({"vector.json": "{}"}, "name/it on the hub holds no vector"),
        ({"vector.json": "{}", "vector.safetensors": "x"}, "truncated or was changed"),
        ({"vector.json": "[1]", "vector.safetensors": "x"}, "no description of a vector"),
    ],
)
def test_a_repository_that_holds_something_else(
    hub: Hub, tmp_path: Path, files: dict[str, str], message: str
) -> None:
    (tmp_path / "it").mkdir()
    for name, text in files.items():
        (tmp_path / "it" / name).write_text(text)
    hub.add("name/it", tmp_path / "it")
    with pytest.raises(InputError, match=message):
        load_vector("name/it")


def test_only_the_two_files_are_downloaded(hub: Hub, tmp_path: Path) -> None:
    folder = pirate().save(tmp_path / "it")
    (folder / "pytorch_model.bin").write_bytes(b"pickled")
    hub.add("name/it", folder)
    load_vector("name/it")
    assert not any("pytorch_model" in asked for asked in hub.asked)


def test_what_was_changed_on_the_hub_is_refused(hub: Hub, tmp_path: Path) -> None:
    folder = pirate().save(tmp_path / "it")
    description = (folder / "vector.json").read_text().replace("Talk like", "Walk like")
    (folder / "vector.json").write_text(description)
    hub.add("name/it", folder)
    with pytest.raises(InputError, match="changed after saving"):
        load_vector("name/it")


def test_a_vector_overwrites_a_vector_and_nothing_else(hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "it").mkdir()
    (tmp_path / "it/config.json").write_text("{}")
    hub.add("name/model", tmp_path / "it")
    with pytest.raises(InputError, match="holds something else .config.json.; choose another"):
        pirate().push_to_hub("name/model", token=TOKEN)
    assert set(hub.files("name/model")) == {"config.json"}
    pirate().push_to_hub("name/open", token=TOKEN)
    with pytest.raises(InputError, match="name/open is there already and public"):
        pirate().push_to_hub("name/open", token=TOKEN, private=True)


@pytest.mark.parametrize(
    ("id", "token"), [("name/pirate", False), ("other/pirate", TOKEN), ("name/pirate", STRANGER)]
)
def test_the_hubs_refusal_of_an_upload_is_a_sentence(hub: Hub, id: str, token: Any) -> None:
    with pytest.raises(InputError, match=f"the hub refuses {id}: .*log in by `hf auth login`"):
        pirate().push_to_hub(id, token=token)


def test_no_hub(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.hf_api.api.endpoint", "http://127.0.0.1:9")
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    template = "http://127.0.0.1:9/{repo_id}/resolve/{revision}/{filename}"
    for place in ("constants", "file_download"):
        name = f"huggingface_hub.{place}.HUGGINGFACE_CO_URL_TEMPLATE"
        monkeypatch.setattr(name, template, raising=False)
    monkeypatch.setattr("time.sleep", lambda _: None)  # the client tries again, later and later
    with pytest.raises(InputError, match="the hub cannot be reached"):
        load_vector("name/pirate")


def test_the_card_is_valid_and_tells_what_was_measured(hub: Hub, run: Path) -> None:
    identity = replace(pirate().model, name="google/gemma-2-2b-it")
    vector = pirate(recipe={"learning_rate": 0.02, "layers": []}, versions={"torch": "2.13.0"})
    vector = replace(vector, model=identity)
    vector.push_to_hub("name/pirate", run=run, license="mit", token=TOKEN)
    card = ModelCard.load("name/pirate")
    check_card(card)
    data = card.data
    assert (data.base_model, data.license) == ("google/gemma-2-2b-it", "mit")
    assert data.library_name == "concept-das"
    assert data.datasets == ["name/pirate-rows"]
    assert data.metrics == ["elicitation_recovery", "suppression_recovery"]
    assert {"steering-vector", "cdas", "elicit", "suppress"} <= set(data.tags)
    assert [(r.metric_type, r.metric_value) for r in data.eval_results] == [
        ("elicitation_recovery", 0.75),
        ("suppression_recovery", 0.9),
    ]
    assert "| elicit | oracle | 1.5 | 0.750 [0.625, 0.875] | 0.020 | 0.100 |" in card.text
    assert "| suppress | oracle | 1 | 0.900 | - | - |" in card.text  # the table has none of it
    assert "| unsteered | Tea \\| is &lt;b> hot. |" in card.text
    assert card.text.count("Question") == 3
    assert "learning rate | 0.02" in card.text
    assert "torch | 2.13.0" in card.text
    assert "/somewhere" not in card.text


def test_the_card_has_no_intervals_of_other_rows(hub: Hub, run: Path) -> None:
    vector = replace(pirate(), metrics={**METRICS, "elicitation_recovery": 0.8})
    vector.push_to_hub("name/pirate", run=run, token=TOKEN)
    assert "| elicit | oracle | 1.5 | 0.800 | 0.020 | 0.100 |" in ModelCard.load("name/pirate").text


FAIR = {
    "elicitation_recovery": 0.625,
    "heldout_jsd_elicit": 0.03,
    "multiplier_elicit": 1.25,
    "elicitation_recovery_at_1": 0.5,
    "elicitation_recovery_oracle": 0.75,
    "multiplier_elicit_oracle": 1.5,
    "suppression_recovery": None,
    "heldout_jsd_suppress": 0.04,
    "multiplier_suppress": 1.0,
    "suppression_recovery_oracle": None,
    "multiplier_suppress_oracle": 1.0,
}


def test_the_card_says_what_was_chosen_on_which_rows(hub: Hub, run: Path) -> None:
    """Fair recovery is the vector's result; without a clear effect of the prompt there is none."""
    replace(pirate(), metrics=FAIR).push_to_hub("name/pirate", run=run, token=TOKEN)
    card = ModelCard.load("name/pirate")
    assert [r.metric_value for r in card.data.eval_results] == [0.625]
    assert card.data.metrics == ["elicitation_recovery"]
    rows = [line for line in card.text.splitlines() if re.match(r"\| (elicit|suppress) \|", line)]
    assert rows == [
        "| elicit | fixed | 1 | 0.500 [0.400, 0.600] | - | - |",
        "| elicit | fair | 1.25 | 0.625 | 0.030 | - |",
        "| elicit | oracle | 1.5 | 0.750 [0.625, 0.875] | - | - |",
        "| suppress | fair | 1 | - | 0.040 | - |",
    ]


def test_the_card_of_a_vector_of_a_comparison(hub: Hub) -> None:
    metrics = {"multiplier": 1.0, "elicitation_recovery": 0.5, "suppression_recovery": math.nan}
    replace(pirate(), metrics=metrics).push_to_hub("name/pirate", token=TOKEN)
    text = ModelCard.load("name/pirate").text
    assert "| elicit | fixed | 1 | 0.500 | - | - |" in text
    assert "| suppress |" not in text


def test_the_card_of_a_vector_that_was_not_measured(hub: Hub) -> None:
    vector = replace(pirate(), metrics={}, concept="")
    vector.push_to_hub("name/it", token=TOKEN)
    card = ModelCard.load("name/it")
    check_card(card)
    assert card.data.eval_results is None
    assert "# it" in card.text
    assert "Nothing yet" in card.text
    assert "## Samples" not in card.text
    assert "base_model" not in card.content  # it was made in code


def test_the_cards_code_runs(hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiny_model().save_pretrained(tmp_path / "model")
    tiny_tokenizer().save_pretrained(tmp_path / "model")
    identity = ModelIdentity.of(tiny_model(), str(tmp_path / "model"))
    replace(pirate(), model=identity).push_to_hub("name/pirate", token=TOKEN)
    (code,) = re.findall(r"```python\n(.*?)```", ModelCard.load("name/pirate").text, re.DOTALL)
    exec(code, {})
    assert capsys.readouterr().out


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"system": "Be brief.", "source_token": -2},
        {"system_in_rows": True},
        {"chat_template": f"{{{{ strftime_now('%B') }}}}{CHAT_TEMPLATE}{{{{ closing }}}}"}
        | {"date": "2026-01-31", "closing": "Well,"},
    ],
)
def test_the_cards_code_makes_the_chat_format_of_training(given: dict[str, Any]) -> None:
    tokenizer = tiny_tokenizer()
    chat = ChatFormat.of(tokenizer, **given)
    trained = {"system": chat.system, "source_token": chat.source_token, "chat": chat.description}
    vector = pirate(**trained)
    code = f"ChatFormat.of(tokenizer, {', '.join(chat_arguments(vector, 'vector'))})"
    again = eval(code, {"ChatFormat": ChatFormat, "tokenizer": tokenizer, "vector": vector})
    assert (again.description, again.source_token) == (chat.description, chat.source_token)


def test_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert is_hub_id("name/pirate")
    assert is_hub_id("name/pirate@v1")
    assert is_hub_id(Path("a/b.c"))
    assert not any(map(is_hub_id, ("pirate", "a/b/c", "/a/b", "./a", "../a", "~/a", "a/", "")))
    pirate().save("runs/pirate")
    assert not is_hub_id("runs/pirate")
    assert same(SteeringVector.load("runs/pirate"), pirate())
    with pytest.raises(InputError, match="leave it out"):
        load_vector("runs/pirate", revision="main")
    with pytest.raises(InputError, match=r"runs/pirate/vector holds no vector.safetensors"):
        load_vector("runs/pirate/vector")
