"""Models of pyvene's and pyreft's own, evaluated and steered here; and ours, handed to them."""

from pathlib import Path
from typing import Any

import pytest
import pyvene as pv
import torch
from torch import Tensor

from concept_das.errors import InputError
from concept_das.evaluation.recovery import evaluate
from concept_das.exports import from_pyreft, to_pyreft
from concept_das.methods.loreft import LearnedEdit
from concept_das.models.blocks import find_site
from concept_das.models.logits import collate_for, response_logits
from concept_das.steering.artifact import load_vector
from concept_das.steering.context import Steering, steer
from concept_das.steering.generation import generate_responses
from concept_das.steering.intervenable import from_intervenable
from concept_das.training.vectors import train_vector
from interventions import ClampIntervention, DistributedInterchangeIntervention
from tests.concept_das.helpers import (
    EVERY_ARCHITECTURE,
    ROWS,
    encoded_rows,
    random_vector,
    tiny_chat,
    tiny_config,
    tiny_loaded,
)
from tests.tiny import WIDTH, tiny_model

ENDS = (2, 3)


@pytest.fixture
def pyreft() -> Any:
    return pytest.importorskip("pyreft", reason="pyreft is not installed")


def reft_model(pyreft: Any, model: Any, kind: str = "LoreftIntervention") -> Any:
    """Trained elsewhere: random parameters at two blocks, addressed by string path."""
    torch.manual_seed(1)
    representations = [
        {
            "component": find_site(model, layer).component,
            "low_rank_dimension": 2,
            "intervention": getattr(pyreft, kind)(
                embed_dim=WIDTH,
                low_rank_dimension=2,
                dtype=torch.float32,
                dropout=0.0,
                add_bias=True,
            ),
        }
        for layer in (0, 2)
    ]
    return pyreft.get_reft_model(model, pyreft.ReftConfig(representations=representations))


def positions_of(length: int) -> list[int]:
    first, last = ENDS
    return [*range(first), *range(length - last, length)]


@pytest.mark.parametrize("kind", ["LoreftIntervention", "NoreftIntervention", "DireftIntervention"])
def test_a_reft_model_steers_as_pyreft_runs_it(pyreft: Any, kind: str) -> None:
    theirs = reft_model(pyreft, tiny_model(), kind)
    edit = from_intervenable(theirs, ends=ENDS)
    assert edit.layers == (0, 2)
    for row in encoded_rows(3):
        turn = row.elicit.base
        prompt = len(turn.prompt.ids)
        positions = positions_of(prompt)
        _, output = theirs(
            {"input_ids": torch.tensor([turn.ids])},
            unit_locations={"sources->base": (None, [[positions]] * 2)},
            use_cache=False,
        )
        expected = output.logits[0, prompt - 1 : prompt - 1 + len(turn.response)]
        with steer(theirs.model, edit, prompt_lengths=[prompt]):
            (found,) = response_logits(theirs.model, collate_for(theirs.model, [turn]))
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_a_reft_model_is_evaluated_and_generates(pyreft: Any) -> None:
    theirs = reft_model(pyreft, tiny_model())
    edit = from_intervenable(theirs, ends=ENDS)
    rows, chat = encoded_rows(3), tiny_chat()
    unrelated = [row.suppress.source for row in rows[:1]]
    table = evaluate(
        theirs.model, chat, edit, rows, multipliers=(0.0, 1.0), unrelated=unrelated
    ).table
    assert table["gain_elicit"][0] == pytest.approx(0.0, abs=1e-4)
    assert abs(table["gain_elicit"][1]) > 0.01
    assert table["gain_suppress"].isna().all()
    prompts = [row.elicit.base.prompt for row in rows]
    texts = generate_responses(
        theirs.model, chat, prompts, steering=Steering(edit), max_new_tokens=6
    )
    plain = generate_responses(theirs.model, chat, prompts, max_new_tokens=6)
    assert texts != plain


def test_an_intervenable_model_that_clamps_everywhere() -> None:
    model = tiny_model()
    vector = random_vector(model, prefix_length=0)
    clamp = ClampIntervention(weight=vector.weight, factor=vector.target("elicit"))
    theirs = pv.IntervenableModel(
        {"component": vector.site(model).component, "intervention": clamp}, model
    )
    ids = torch.tensor([encoded_rows(1)[0].elicit.base.ids])

    def logits(steering: Any) -> Tensor:
        with torch.no_grad(), steer(model, steering):
            return model(ids).logits

    torch.testing.assert_close(logits(from_intervenable(theirs)), logits(vector))


def test_pyvenes_name_of_a_block() -> None:
    """And an addition of pyvene's own, which knows nothing of several positions."""
    model, direction = tiny_model(), torch.randn(WIDTH)
    addition = pv.AdditionIntervention(embed_dim=WIDTH, source_representation=direction)
    theirs = pv.IntervenableModel(
        {
            "layer": 1,
            "component": "block_output",
            "intervention": addition,
        },
        model,
    )
    vector = random_vector(model, prefix_length=0, operation="add")
    vector = type(vector)(
        **{**vars(vector), "weight": direction[None], "positive_factor": torch.tensor([0.5])}
    )
    ids = torch.tensor([encoded_rows(1)[0].elicit.base.ids])
    with torch.no_grad():
        with steer(model, from_intervenable(theirs), multiplier=0.5):
            found = model(ids).logits
        with steer(model, vector):
            expected = model(ids).logits
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_what_cannot_be_taken(tmp_path: Path) -> None:
    model = tiny_model()
    swap = DistributedInterchangeIntervention(embed_dim=WIDTH)
    for component, intervention, message in (
        ("model.layers[1].output", swap, "needs a source at every call"),
        (
            "model.layers[1].input",
            ClampIntervention(weight=torch.randn(1, WIDTH), factor=torch.zeros(1)),
            r"acts at model.layers\[1\].input; only outputs",
        ),
    ):
        theirs = pv.IntervenableModel({"component": component, "intervention": intervention}, model)
        with pytest.raises(InputError, match=message):
            from_intervenable(theirs)
    clamp = ClampIntervention(weight=torch.eye(1, WIDTH), factor=torch.zeros(1))
    theirs = pv.IntervenableModel(
        {"component": "model.layers[1].output", "intervention": clamp}, model
    )
    with pytest.raises(InputError, match=r"save this by its own library"):
        from_intervenable(theirs).save(tmp_path)


@EVERY_ARCHITECTURE
def test_what_pyreft_saved_is_read_where_pyreft_cannot(
    pyreft: Any, architecture: str, tmp_path: Path
) -> None:
    model = tiny_model(architecture)
    theirs = reft_model(pyreft, model)
    theirs.save(str(tmp_path / "reft"))
    edit = from_pyreft(tmp_path / "reft", model, ends=ENDS)
    live = from_intervenable(theirs, ends=ENDS)
    edit.save(tmp_path / "vector")
    turns = [row.elicit.base for row in encoded_rows()]
    lengths = [len(turn.prompt.ids) for turn in turns]
    found = []
    for steering in (live, edit, load_vector(tmp_path / "vector", model)):
        with torch.no_grad(), steer(model, steering, prompt_lengths=lengths):
            found.append(torch.cat(response_logits(model, collate_for(model, turns))))
    torch.testing.assert_close(found[1], found[0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found[2], found[1])


def test_folders_that_hold_no_loreft(pyreft: Any, tmp_path: Path) -> None:
    model = tiny_model()
    reft_model(pyreft, model, "NoreftIntervention").save(str(tmp_path / "other"))
    with pytest.raises(InputError, match="holds a .*NoreftIntervention.*; load it by pyreft"):
        from_pyreft(tmp_path / "other", model)
    with pytest.raises(InputError, match="holds no config.json"):
        from_pyreft(tmp_path, model)


def test_ours_for_code_that_expects_a_reft_model(pyreft: Any, tmp_path: Path) -> None:
    loaded = tiny_loaded()
    config = tiny_config("cdas_loreft", epochs=2, batch_size=2, learning_rate=0.1, rank=2)
    edit = train_vector(loaded, tiny_chat(), ROWS, [], 1, config).vector
    assert isinstance(edit, LearnedEdit)
    for direction in edit.directions:
        theirs = to_pyreft(edit, loaded.model, direction)
        assert isinstance(theirs, pyreft.ReftModel)
        turn = encoded_rows(1)[0].elicit.base
        stop, prefix = len(turn.prompt.ids), turn.prompt.prefix_length
        first, last = edit.ends
        positions = sorted(
            {*range(prefix, min(prefix + first, stop))} | {*range(max(prefix, stop - last), stop)}
        )
        _, output = theirs(
            {"input_ids": torch.tensor([turn.ids])},
            unit_locations={"sources->base": (None, [[positions]] * len(edit.layers))},
            use_cache=False,
        )
        expected = output.logits[0, stop - 1 : stop - 1 + len(turn.response)]
        with steer(loaded.model, edit, direction=direction, prompt_lengths=[stop]):
            (found,) = response_logits(loaded.model, collate_for(loaded.model, [turn]))
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    theirs.save(str(tmp_path))
    again = from_pyreft(tmp_path, loaded.model, prefix_length=edit.prefix_length)
    for ours, read in zip(
        edit.parts["suppress"].values(), again.parts["elicit"].values(), strict=True
    ):
        for a, b in zip(ours, read, strict=True):
            torch.testing.assert_close(a, b)
