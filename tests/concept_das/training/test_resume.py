"""Any changed part makes another run, whose progress is not taken for this one's."""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedModel

from concept_das.data.encoding import EncodedQuadruple, encode_quadruples
from concept_das.data.quadruples import Quadruple
from concept_das.errors import InputError
from concept_das.methods.interchange import CDAS
from concept_das.methods.registry import METHODS
from concept_das.methods.settings import TrainingConfig
from concept_das.models.blocks import find_site
from concept_das.training.checkpoint import Progress, RunIdentity, resume, run_identity, save
from objectives import REDUCTIONS
from tests.concept_das.helpers import ROWS, tiny_chat
from tests.tiny import CHAT_TEMPLATE, tiny_model

COUNTS = st.integers(1, 99)
RATES = st.floats(1e-6, 9.0)

VALUES: dict[str, st.SearchStrategy[Any]] = {
    "method": st.sampled_from(sorted(METHODS)),
    "rank": COUNTS,
    "layers": st.just("spread") | st.lists(st.integers(0, 3), max_size=3, unique=True).map(tuple),
    "learning_rate": RATES,
    "epochs": COUNTS,
    "batch_size": COUNTS,
    "max_response_tokens": COUNTS,
    "gradient_clip": RATES,
    "weight_decay": RATES,
    "reduction": st.sampled_from(REDUCTIONS),
    "seed": st.integers(0, 2**31),
    "patience": st.integers(0, 9),
    "positions": st.sampled_from([None, "all", "prompt", "p1+s1", "p2+s2"]),
    "factor_learning_rate": RATES,
    "means": st.sampled_from(["all", "source_token"]),
    "suppression_prompts": st.sampled_from(["concept", "neutral"]),
}


@dataclass(frozen=True)
class Run:
    """Everything that a run is made of."""

    model: PreTrainedModel
    config: TrainingConfig = TrainingConfig()  # noqa: RUF009 (frozen)
    layer: int = 1
    rows: tuple[Quadruple, ...] = ROWS[:3]
    heldout: tuple[Quadruple, ...] = ROWS[3:]
    chat: Mapping[str, Any] = ()  # type: ignore[assignment]
    method: Any = CDAS()  # noqa: RUF009 (it has no state)
    factor: float = 1.0

    def identity(self) -> RunIdentity:
        chat = tiny_chat(**dict(self.chat))
        rows, heldout = (self._encoded(part, chat) for part in (self.rows, self.heldout))
        edit = torch.nn.Module()
        edit.register_buffer("factor", torch.tensor(self.factor))
        sites = [find_site(self.model, self.layer)]
        built = [{"interchange": edit}]
        return run_identity(
            self.model, sites, rows, heldout, self.config.record(), self.method, built
        )

    @staticmethod
    def _encoded(rows: tuple[Quadruple, ...], chat: Any) -> list[EncodedQuadruple]:
        return encode_quadruples(rows, chat)


MODEL = tiny_model()
RUN = Run(MODEL)


def change(run: Run, data: st.DataObject) -> Run:
    """The run with one part that is another."""
    part = data.draw(st.sampled_from([field.name for field in fields(Run)]))
    if part == "model":
        model = tiny_model()
        name = data.draw(st.sampled_from([name for name, _ in model.named_parameters()]))
        with torch.no_grad():
            model.get_parameter(name).mul_(1.5)
        return replace(run, model=model)
    if part == "config":
        name = data.draw(st.sampled_from([field.name for field in fields(TrainingConfig)]))
        old = getattr(run.config, name)
        value = data.draw(VALUES[name].filter(lambda value: value != old))
        return replace(run, config=replace(run.config, **{name: value}))
    if part == "layer":
        return replace(run, layer=data.draw(st.sampled_from([0, 2, 3])))
    if part in ("rows", "heldout"):
        rows = list(getattr(run, part))
        at = data.draw(st.integers(0, len(rows) - 1))
        texts = [name for name in vars(rows[0]) if name.endswith(("put",))]
        name = data.draw(st.sampled_from(texts))
        text = data.draw(st.text("abc !", min_size=1).filter(str.strip))
        changed = replace(rows[at], **{name: f"{getattr(rows[at], name)}{text}"})
        new = data.draw(
            st.sampled_from(
                [
                    [*rows[:at], changed, *rows[at + 1 :]],
                    [*rows, changed],
                    rows[:at] + rows[at + 1 :],
                    rows[::-1],
                ]
            )
        )
        return replace(run, **{part: tuple(new)})
    if part == "chat":
        options = [
            {"system": "Be rude."},
            {"source_token": -2},
            {"chat_template": CHAT_TEMPLATE.replace("assistant", "model")},
        ]
        return replace(run, chat=data.draw(st.sampled_from(options)))
    if part == "factor":
        return replace(run, factor=data.draw(st.sampled_from([0.5, 2.0])))
    other = type(data.draw(st.sampled_from(["CDAS", "Other"])), (CDAS,), {"positions": "p1+s1"})
    return replace(run, method=other())


def test_every_hyper_parameter_has_values_to_be_changed_to() -> None:
    known = {field.name for field in fields(TrainingConfig)}
    assert set(VALUES) == known, "give the new field values here; it must be part of the identity"


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("progress")
    save(folder, Progress([torch.ones(2)], [torch.ones(2)]), *stepped(), RUN.identity())
    return folder


def stepped() -> tuple[list[torch.Tensor], torch.optim.Optimizer]:
    parameter = torch.nn.Parameter(torch.ones(2))
    optimizer = torch.optim.AdamW([parameter])
    parameter.grad = torch.ones(2)
    optimizer.step()
    return [parameter], optimizer


def goes_on(saved: Path, run: Run) -> bool:
    try:
        resume(saved, Progress([torch.ones(2)], [torch.ones(2)]), *stepped(), run.identity())
    except InputError as error:
        return "holds progress of another run (" not in str(error)
    return True


def test_the_same_run_goes_on(saved: Path) -> None:
    assert goes_on(saved, replace(RUN, model=tiny_model(), method=CDAS()))


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.data())
def test_a_run_with_any_change_does_not(saved: Path, data: st.DataObject) -> None:
    assert not goes_on(saved, change(RUN, data))


@settings(max_examples=50, deadline=None, derandomize=True)
@given(st.sampled_from(sorted(VALUES)), st.data())
def test_two_values_of_a_hyper_parameter_are_two_runs(name: str, data: st.DataObject) -> None:
    first, second = data.draw(
        st.lists(VALUES[name], min_size=2, max_size=2, unique_by=repr), label=name
    )
    identities = [
        replace(RUN, config=TrainingConfig(**{name: value})).identity() for value in (first, second)
    ]
    assert identities[0] != identities[1]


def test_progress_of_an_earlier_release_goes_on(saved: Path, tmp_path: Path) -> None:
    identity = {
        name: value
        for name, value in RUN.identity().items()
        if name not in ("method_settings", "buffers", "prompts", "method_layers")
    }
    save(tmp_path, Progress([torch.ones(2)], [torch.ones(2)]), *stepped(), identity)
    assert goes_on(tmp_path, RUN)
    assert not goes_on(tmp_path, replace(RUN, layer=2))
