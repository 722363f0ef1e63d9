"""Write the measurements of training and evaluation to wandb, or nowhere."""

import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

TrackingMode = Literal["auto", "online", "offline", "off"]


@runtime_checkable
class Tracker(Protocol):
    """Takes measurements; logging off is an object, not an `if`."""

    def log(self, values: Mapping[str, float], step: int | None) -> None:
        """Record values at a step, or at the next one."""

    def table(self, name: str, columns: list[str], rows: list[list[Any]]) -> None:
        """Record a table."""

    def finish(self) -> None:
        """Close the run."""


class NoTracker:
    """Records nothing."""

    def log(self, values: Mapping[str, float], step: int | None) -> None:
        """Drop the values."""

    def table(self, name: str, columns: list[str], rows: list[list[Any]]) -> None:
        """Drop the table."""

    def finish(self) -> None:
        """Nothing to close."""


class WandbTracker:
    """A Weights & Biases run, online or kept in the run's own folder."""

    def __init__(
        self, project: str, name: str, config: Mapping[str, Any], folder: Path, mode: str
    ) -> None:
        import wandb  # slow to import, and not needed when tracking is off

        folder.mkdir(parents=True, exist_ok=True)
        self._wandb = wandb
        self._run = wandb.init(
            project=project,
            name=name,
            config=dict(config),
            dir=str(folder),
            mode="online" if mode == "online" else "offline",
            settings=wandb.Settings(silent=True),
        )

    def log(self, values: Mapping[str, float], step: int | None) -> None:
        """Record values at a step, or at the next one."""
        self._run.log(dict(values), step=step)

    def table(self, name: str, columns: list[str], rows: list[list[Any]]) -> None:
        """Record a table; NaN stands for a gap in a column of text too, which wandb refuses."""
        data: list[Iterable[Any]] = [
            [None if _is_nan(value) else value for value in row] for row in rows
        ]
        self._run.log({name: self._wandb.Table(columns=list(columns), data=data)})

    def finish(self) -> None:
        """Flush and close."""
        self._run.finish()


def _is_nan(value: Any) -> bool:
    return isinstance(value, float) and math.isnan(value)


class PrefixedTracker:
    """One of several trainings that share a run: its names are prefixed, its steps are its own."""

    def __init__(self, run: Tracker, prefix: str) -> None:
        self._run, self._prefix = run, prefix

    def log(self, values: Mapping[str, float], step: int | None) -> None:
        """Record values; the shared run counts on, as the trainings' steps overlap."""
        self._run.log({f"{self._prefix}/{name}": value for name, value in values.items()}, None)

    def table(self, name: str, columns: list[str], rows: list[list[Any]]) -> None:
        """Record a table."""
        self._run.table(f"{self._prefix}/{name}", columns, rows)

    def finish(self) -> None:
        """The shared run is closed by its owner."""


def open_tracker(
    mode: TrackingMode, *, name: str, config: Mapping[str, Any], folder: Path
) -> Tracker:
    """Open a tracker.

    Args:
        mode: `off`; `online`; `offline` (files under the run's folder, for `wandb sync`); `auto` is
            online if there is an API key and offline otherwise.
    """
    if mode == "off":
        return NoTracker()
    if mode == "auto":
        mode = "online" if _has_key() else "offline"
    return WandbTracker("concept-das", name, config, folder, mode)


def _has_key() -> bool:
    if os.environ.get("WANDB_API_KEY"):
        return True
    netrc = Path.home() / ".netrc"
    return netrc.exists() and "api.wandb.ai" in netrc.read_text(errors="ignore")
