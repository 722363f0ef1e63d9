"""Write the measurements of training and evaluation to wandb, or nowhere."""

import math
import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from functools import cached_property
from netrc import NetrcParseError, netrc
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable
from urllib.parse import urlsplit

from concept_das.errors import InputError

TrackingMode = Literal["auto", "online", "offline", "off"]

_YES = ("1", "true", "yes", "on")


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
    """A Weights & Biases run, online or kept in the run's own folder.

    It begins with the first measurement, so that what is refused before leaves none.
    """

    def __init__(
        self, project: str, name: str, config: Mapping[str, Any], folder: Path, mode: str
    ) -> None:
        self._project, self._name, self._config = project, name, dict(config)
        self._folder, self._mode = folder, mode

    @cached_property
    def _run(self) -> Any:
        """The run itself, begun.

        Raises:
            InputError: if wandb cannot start it.
        """
        import wandb  # slow to import, and not needed when tracking is off

        self._folder.mkdir(parents=True, exist_ok=True)
        try:
            return wandb.init(
                project=os.environ.get("WANDB_PROJECT") or self._project,
                name=self._name,
                config=self._config,
                dir=str(self._folder),
                mode="online" if self._mode == "online" else "offline",
                settings=wandb.Settings(silent=True),
            )
        except (wandb.Error, RuntimeError) as error:  # the second without a home folder
            reason = " ".join(str(error).split()).rstrip(".")
            raise InputError(
                f"wandb cannot start ({reason}); choose --wandb off, or offline without a network"
            ) from error

    def log(self, values: Mapping[str, float], step: int | None) -> None:
        """Record values at a step, or at the next one."""
        self._run.log(dict(values), step=step)

    def table(self, name: str, columns: list[str], rows: list[list[Any]]) -> None:
        """Record a table; NaN stands for a gap in a column of text too, which wandb refuses."""
        import wandb

        data: list[Iterable[Any]] = [
            [None if _is_nan(value) else value for value in row] for row in rows
        ]
        self._run.log({name: wandb.Table(columns=list(columns), data=data)})

    def finish(self) -> None:
        """Flush and close, if it has begun."""
        if "_run" in vars(self):
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
    """A tracker, which starts a run when it gets its first numbers.

    Args:
        mode: `off`; `online`; `offline` (files under the run's folder, for `wandb sync`); `auto` is
            what wandb's own variables say (WANDB_MODE, WANDB_DISABLED), or else online if there is
            an API key and offline otherwise; off for a user without a home, which wandb needs.
    """
    chosen = _resolved(mode)
    if chosen == "off":
        return NoTracker()
    return WandbTracker("concept-das", name, config, folder, chosen)


def check_tracking(mode: TrackingMode) -> None:
    """Make sure before any work that measurements can be sent where they are wanted.

    Raises:
        InputError: if they should go online and wandb has no API key, or the user has no home.
    """
    if _resolved(mode) != "off" and not _has_home():
        raise InputError("wandb needs a home folder; set HOME, or choose --wandb off")
    if _resolved(mode) == "online" and not _has_key():
        raise InputError(
            "wandb has no API key to go online with; run `wandb login` first, set WANDB_API_KEY, "
            "or choose --wandb offline"
        )


def _resolved(mode: TrackingMode) -> TrackingMode:
    if mode != "auto":
        return mode
    wanted = os.environ.get("WANDB_MODE", "").lower()
    if wanted == "disabled" or os.environ.get("WANDB_DISABLED", "").lower() in _YES:
        return "off"
    if not _has_home():
        return "off"
    if wanted in ("offline", "dryrun"):
        return "offline"
    return "online" if wanted == "online" or _has_key() else "offline"


def _has_home() -> bool:
    return os.path.expanduser("~") != "~"


def _has_key() -> bool:
    """True if wandb can log in without asking: by a variable, or by the user's netrc file."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    host = urlsplit(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    for path in (os.environ.get("NETRC", ""), "~/.netrc", "~/_netrc"):
        with suppress(OSError, ValueError, NetrcParseError):
            if host in netrc(os.path.expanduser(path)).hosts:
                return True
    return False
