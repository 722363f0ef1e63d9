"""One suite over the artifacts of all methods."""

import os
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from concept_das.data.chat_format import Turn
from concept_das.errors import InputError, VectorMismatchError
from concept_das.evaluation.recovery import evaluate
from concept_das.methods.lora import Adapter
from concept_das.methods.loreft import LearnedEdit, LoreftTensors
from concept_das.methods.prompt import SteeringPrompt
from concept_das.methods.registry import METHODS, find_method
from concept_das.models.logits import collate_for, response_logits
from concept_das.steering.artifact import Artifact, load_vector
from concept_das.steering.context import Steering, steer
from concept_das.steering.generation import generate_responses
from concept_das.training.vectors import train_vector
from concept_das.words import DIRECTIONS
from tests.concept_das.helpers import (
    ROWS,
    encoded_rows,
    tiny_chat,
    tiny_config,
    tiny_loaded,
)
from tests.tiny import WIDTH, tiny_model

EVERY_METHOD = pytest.mark.parametrize("name", METHODS)
IN_THE_MODEL = [name for name in METHODS if name != "prompt"]

# A method for each kind of artifact: what steers alike is held to one of them where it takes long.
KINDS = ("cdas", "diffmean", "prosv_lang", "cdas_loreft", "lora", "apsr", "prompt")


@cache
def trained(name: str, architecture: str = "llama") -> Artifact:
    config = tiny_config(name, epochs=2, batch_size=2, learning_rate=0.1, rank=1)
    return train_vector(tiny_loaded(architecture), tiny_chat(), ROWS, [], 1, config).vector


def kind_of(artifact: Artifact) -> tuple[Any, ...]:
    return (type(artifact), *(getattr(artifact, name, "") for name in ("operation", "positions")))


def test_every_kind_of_artifact_is_there() -> None:
    assert len(KINDS) == len({kind_of(trained(name)) for name in METHODS})
    assert len(KINDS) == len({kind_of(trained(name)) for name in KINDS})


def turns() -> list[Turn]:
    """Of different lengths; some prompts are too short for ten edited tokens."""
    return [row.elicit.base for row in encoded_rows()]


def logits_of(
    model: PreTrainedModel,
    batch: Sequence[Turn],
    steering: Steering | Sequence[Steering | None] | None,
) -> list[Tensor]:
    collated = collate_for(model, batch)
    if steering is None:
        return response_logits(model, collated)
    with steer(model, steering, prompt_lengths=[len(turn.prompt.ids) for turn in batch]):
        return response_logits(model, collated)


@EVERY_METHOD
def test_saved_and_read_again(name: str, tmp_path: Path) -> None:
    artifact = trained(name)
    read = load_vector(artifact.save(tmp_path / "vector"), tiny_model())
    assert type(read) is type(artifact)
    assert read.describe() == artifact.describe()
    assert read.directions == find_method(name).directions
    for key, value in artifact.tensors().items():
        assert torch.equal(read.tensors()[key], value.float())
    assert (read.rank, read.layers, read.parameters) == (
        artifact.rank,
        artifact.layers,
        artifact.parameters,
    )


class Killed(BaseException):
    """In place of a kill: nothing of the project catches it."""


@pytest.mark.parametrize("before_write", [0, 1, 2])
@pytest.mark.parametrize("first", [True, False])
def test_saving_may_be_killed_between_its_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before_write: int, first: bool
) -> None:
    old, new = trained("cdas"), replace(trained("cdas"), metrics={"recovery": 0.5})
    if not first:
        old.save(tmp_path)
    calls: list[str] = []

    def killed(source: Any, target: Any, rename: Any = os.replace) -> None:
        calls.append(str(target))
        if len(calls) > before_write:
            raise Killed
        rename(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", killed)
        with pytest.raises(Killed):
            new.save(tmp_path)
    if first and before_write < 2:
        with pytest.raises(InputError, match="holds no vector.safetensors"):
            load_vector(tmp_path)
    else:
        expected = new if before_write == 2 else old
        assert load_vector(tmp_path, tiny_model()).metrics == expected.metrics
    new.save(tmp_path)
    assert load_vector(tmp_path).metrics == new.metrics
    assert {path.name for path in tmp_path.iterdir()} == {"vector.json", "vector.safetensors"}


@EVERY_METHOD
def test_another_model_is_refused(name: str, tmp_path: Path) -> None:
    trained(name).save(tmp_path)
    with pytest.raises(VectorMismatchError, match="belongs to"):
        load_vector(tmp_path, tiny_model(seed=1))


@EVERY_METHOD
def test_only_the_directions_it_has(name: str) -> None:
    artifact = trained(name)
    for direction in DIRECTIONS:
        if direction in artifact.directions:
            Steering(artifact, direction).check()
        else:
            with pytest.raises(InputError, match=f"cannot {direction}"):
                Steering(artifact, direction).check()


@pytest.mark.parametrize(
    ("architecture", "name"),
    [
        *(("llama", name) for name in IN_THE_MODEL),
        *(("gemma2", name) for name in KINDS if name in IN_THE_MODEL),
    ],
)
def test_steers_inside_the_block_only(architecture: str, name: str) -> None:
    model, artifact = tiny_model(architecture), trained(name, architecture)
    before = logits_of(model, turns(), None)
    for direction in artifact.directions:
        inside = logits_of(model, turns(), Steering(artifact, direction, 2.0))
        assert any(not torch.allclose(a, b) for a, b in zip(inside, before, strict=True))
    after = logits_of(model, turns(), None)
    assert all(torch.equal(a, b) for a, b in zip(after, before, strict=True))


@pytest.mark.parametrize("name", IN_THE_MODEL)
def test_a_row_does_not_depend_on_its_batch(name: str) -> None:
    """Together with rows that are not steered, or by another vector, or by themselves."""
    model, artifact = tiny_model(), trained(name)
    direction = artifact.directions[-1]
    mine, other = Steering(artifact, direction, 1.5), Steering(trained("cdas"), "elicit", 3.0)
    rows: list[Steering | None] = [mine, None, other, mine, None]
    together = logits_of(model, turns(), rows)
    for turn, row, found in zip(turns(), rows, together, strict=True):
        (alone,) = logits_of(model, [turn], row)
        torch.testing.assert_close(found, alone, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("positions", ["all", "prompt", "generated"])
def test_cache_and_padding_change_no_generated_token(name: str, positions: Any) -> None:
    model, chat, artifact = tiny_model(), tiny_chat(), trained(name)
    prompts = [turn.prompt for turn in turns()]
    steering = Steering(artifact, artifact.directions[0], 2.0)
    options: dict[str, Any] = {
        "steering": steering,
        "positions": positions,
        "max_new_tokens": 6,
    }
    found = generate_responses(model, chat, prompts, **options)
    alone = [generate_responses(model, chat, [prompt], **options)[0] for prompt in prompts]
    model.generation_config.use_cache = False
    uncached = generate_responses(model, chat, prompts, **options)
    assert found == alone == uncached


@EVERY_METHOD
def test_every_method_is_evaluated_in_the_same_way(name: str) -> None:
    artifact = trained(name)
    result = evaluate(
        tiny_model(),
        tiny_chat(),
        artifact,
        encoded_rows(3),
        multipliers=(1.0,),
        unrelated=[row.suppress.source for row in encoded_rows(2)],
    )
    for direction in DIRECTIONS:
        measured = direction in artifact.directions
        for column in (
            f"gain_{direction}",
            f"heldout_jsd_{direction}",
            f"kl_side_effect_{direction}",
        ):
            assert bool(result.table[column].notna().all()) == measured


def test_half_a_learned_edit_moves_half_as_far() -> None:
    model, artifact = tiny_model(), trained("loreft")
    assert isinstance(artifact, LearnedEdit)
    (first, *_) = artifact.edits(model, "elicit", 1.0)
    (half, *_) = artifact.edits(model, "elicit", 0.5)
    hidden = torch.randn(2, 3, WIDTH)
    torch.testing.assert_close(
        half.change(hidden, hidden) - hidden, (first.change(hidden, hidden) - hidden) / 2
    )


def test_the_learned_edit_is_that_of_pyreft() -> None:
    """The same positions, edited by pyreft's own `ReftModel` with the same parameters."""
    pyreft = pytest.importorskip("pyreft", reason="pyreft is not installed")
    from concept_das.methods.loreft import loreft_intervention

    artifact = trained("loreft")
    assert isinstance(artifact, LearnedEdit)
    model = tiny_model()
    turn = turns()[0]
    (found,) = logits_of(model, [turn], Steering(artifact))
    prefix, stop = turn.prompt.prefix_length, len(turn.prompt.ids)
    positions = sorted({*range(prefix, min(prefix + 5, stop)), *range(max(prefix, stop - 5), stop)})
    representations = [
        {
            "component": f"model.layers[{layer}].output",
            "low_rank_dimension": artifact.rank,
            "intervention": loreft_intervention(LoreftTensors(*tensors)),
        }
        for layer, tensors in artifact.parts["elicit"].items()
    ]
    theirs = pyreft.get_reft_model(model, pyreft.ReftConfig(representations=representations))
    _, output = theirs(
        {"input_ids": torch.tensor([turn.ids])},
        unit_locations={"sources->base": (None, [[positions]] * len(representations))},
        use_cache=False,
    )
    expected = output.logits[0, stop - 1 : stop - 1 + len(turn.response)]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_an_adapter_is_that_of_peft(tmp_path: Path) -> None:
    peft = pytest.importorskip("peft", reason="peft is not installed")
    from concept_das.exports.peft import to_peft

    artifact = trained("lora")
    assert isinstance(artifact, Adapter)
    batch = turns()
    found = logits_of(tiny_model(), batch, Steering(artifact))
    adapted = peft.PeftModel.from_pretrained(tiny_model(), to_peft(artifact, tmp_path))
    expected = response_logits(adapted.get_base_model(), collate_for(tiny_model(), batch))
    for ours, wanted in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, wanted, rtol=1e-4, atol=1e-5)


def test_a_steering_prompt_is_text_before_the_users() -> None:
    chat, artifact = tiny_chat(), trained("prompt")
    assert isinstance(artifact, SteeringPrompt)
    prompt = chat.prompt("Name a tree")
    steered = artifact.prompt(prompt, "elicit")
    added = chat.text_ids(artifact.texts["elicit"])
    assert steered.ids == (
        *prompt.ids[: prompt.prefix_length],
        *added,
        *prompt.ids[prompt.prefix_length :],
    )
    at = prompt.source_position
    assert steered.ids[steered.source_position] == prompt.ids[at]
    assert "Pirate" in artifact.texts["elicit"]


def test_a_steering_prompt_does_not_go_into_the_model() -> None:
    with (
        pytest.raises(InputError, match="put into the text and not into the model"),
        steer(tiny_model(), trained("prompt")),
    ):
        pass
