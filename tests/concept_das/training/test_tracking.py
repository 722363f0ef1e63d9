from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from concept_das.errors import InputError
from concept_das.training import tracking
from concept_das.training.tracking import (
    NoTracker,
    PrefixedTracker,
    Tracker,
    check_tracking,
    open_tracker,
)


def test_off_writes_nothing(tmp_path: Path) -> None:
    tracker = open_tracker("off", name="run", config={}, folder=tmp_path / "run")
    assert isinstance(tracker, NoTracker)
    tracker.log({"loss": 1.0}, 1)
    tracker.table("rows", ["a"], [[1]])
    tracker.finish()
    assert list(tmp_path.iterdir()) == []


def home_without_wandb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_DISABLED", "WANDB_BASE_URL", "NETRC"):
        monkeypatch.delenv(name, raising=False)


class Recorded(NoTracker):
    def __init__(
        self, project: str, name: str, config: Mapping[str, Any], folder: Path, mode: str
    ) -> None:
        self.arguments = (project, name, dict(config), folder, mode)


@pytest.mark.parametrize(
    ("mode", "key", "netrc", "expected"),
    [
        ("auto", None, None, "offline"),
        ("auto", "abc", None, "online"),
        ("auto", "", None, "offline"),
        ("auto", None, "machine api.wandb.ai login user password abc", "online"),
        ("auto", None, "machine example.org login user password abc", "offline"),
        ("online", None, None, "online"),
        ("offline", "abc", None, "offline"),
    ],
)
def test_which_mode_is_chosen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: Any, key: Any, netrc: Any, expected: str
) -> None:
    monkeypatch.setattr(tracking, "WandbTracker", Recorded)
    home_without_wandb(tmp_path, monkeypatch)
    if key is not None:
        monkeypatch.setenv("WANDB_API_KEY", key)
    if netrc is not None:
        (tmp_path / ".netrc").write_text(netrc)
    tracker = open_tracker(mode, name="run", config={"seed": 1}, folder=tmp_path)
    assert isinstance(tracker, Recorded)
    assert tracker.arguments == ("concept-das", "run", {"seed": 1}, tmp_path, expected)


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"WANDB_MODE": "offline"}, "offline"),
        ({"WANDB_MODE": "dryrun"}, "offline"),
        ({"WANDB_MODE": "disabled"}, "off"),
        ({"WANDB_DISABLED": "true"}, "off"),
        ({"WANDB_DISABLED": "1", "WANDB_MODE": "online"}, "off"),
        ({"WANDB_DISABLED": "false"}, "online"),
        ({"WANDB_MODE": "online"}, "online"),
    ],
)
def test_what_the_environment_says_wins_over_auto(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], expected: str
) -> None:
    monkeypatch.setattr(tracking, "WandbTracker", Recorded)
    home_without_wandb(tmp_path, monkeypatch)
    for name, value in {"WANDB_API_KEY": "abc", **variables}.items():
        monkeypatch.setenv(name, value)
    tracker = open_tracker("auto", name="run", config={}, folder=tmp_path)
    assert (tracker.arguments[-1] if isinstance(tracker, Recorded) else "off") == expected


def test_online_needs_a_login(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home_without_wandb(tmp_path, monkeypatch)
    with pytest.raises(InputError, match="wandb has no API key to go online with; run `wandb log"):
        check_tracking("online")
    check_tracking("auto")
    monkeypatch.setenv("WANDB_MODE", "online")
    with pytest.raises(InputError, match="has no API key"):
        check_tracking("auto")
    monkeypatch.setenv("WANDB_BASE_URL", "https://wandb.example.org:8080")
    (tmp_path / ".netrc").write_text("machine wandb.example.org login user password abc")
    check_tracking("online")


def test_offline_keeps_the_run_in_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "runs/one"
    tracker = open_tracker("offline", name="one", config={"seed": 1}, folder=folder)
    assert isinstance(tracker, Tracker)
    tracker.finish()
    assert not folder.exists()  # nothing was measured
    tracker.log({"loss": 1.0}, 1)
    nan = float("nan")
    tracker.table("rows", ["a", "b"], [[1.5, "x"], [nan, "y"], [2.5, nan]])
    tracker.finish()
    (written,) = (folder / "wandb").glob("offline-run-*/run-*.wandb")
    assert written.stat().st_size > 0
    assert not (tmp_path / "wandb").exists()


def test_trainings_that_share_a_run_keep_their_names_apart() -> None:
    logged: list[tuple[dict[str, float], int | None]] = []
    tables: list[str] = []

    class Shared(NoTracker):
        def log(self, values: Mapping[str, float], step: int | None) -> None:
            logged.append((dict(values), step))

        def table(self, name: str, columns: list[str], rows: list[list[Any]]) -> None:
            tables.append(name)

    run = Shared()
    for name in ("concept-3", "concept-9"):
        PrefixedTracker(run, name).log({"step": 1.0, "loss": 0.5}, 1)
    PrefixedTracker(run, "concept-3").table("rows", [], [])
    assert logged == [
        ({"concept-3/step": 1.0, "concept-3/loss": 0.5}, None),
        ({"concept-9/step": 1.0, "concept-9/loss": 0.5}, None),
    ]
    assert tables == ["concept-3/rows"]
