"""A safety benchmark: a case, a preset and a user's choices become a plan."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.capabilities.scores import Framing
from benchmarks.command import Plan
from benchmarks.models import is_model
from benchmarks.presets import chat_of
from benchmarks.safety.case import Case
from benchmarks.safety.estimate import Size, estimate_text
from benchmarks.safety.report import report_stage
from benchmarks.safety.settings import Choices, SafetyPreset, Settings, check_limits
from benchmarks.safety.stages import SafetyBenchmark
from benchmarks.steps import Subject
from concept_das.cli.options import ChatOptions, ModelOptions
from concept_das.errors import InputError
from concept_das.runs.running import WorkerOptions
from concept_das.runs.stages import Stage, stage_names
from concept_das.training.options import EngineOptions
from concept_das.training.tracking import TrackingMode, open_tracker

NO_FRAMING = Framing()


@dataclass(frozen=True)
class RunOptions:
    """The run's folder and its size.

    Args:
        out: folder of the benchmark: report/report.html, report/table.csv, and all that they are
            made of.
        rows: training pairs (of the backdoor: prompts of either kind to make them from), the first
            so many; all if not given.
        tests: test prompts of each set, likewise.
        dry_run: print the steps, answers and verdicts of the run, and stop.
        wandb: auto (online with an API key, else offline), online, offline or off.
    """

    out: Path
    rows: int | None = None
    tests: int | None = None
    dry_run: bool = False
    wandb: TrackingMode = "auto"

    def __post_init__(self) -> None:
        check_limits(rows=self.rows, tests=self.tests)


def plan_case(
    case: Case,
    preset: SafetyPreset,
    data_of: Callable[[Settings], Stage],
    size: Size,
    options: RunOptions,
    loading: ModelOptions,
    chat: ChatOptions,
    choices: Choices,
    engine: EngineOptions,
    processes: WorkerOptions,
    framing: Framing = NO_FRAMING,
) -> Plan | None:
    """The run of a safety benchmark; None if it was a dry one.

    Args:
        data_of: makes the data stage.
        size: of its data.
        options: a sweep over layers goes into `layers` in the folder.
        framing: of the capability questions.

    Raises:
        InputError: on choices that cannot be.
    """
    chat = chat_of(chat, preset.recipe)
    if options.dry_run:
        settings = Settings(preset, choices, Subject(loading, chat), engine, framing)
        print(estimate_text(case, settings, size))
        return None
    out = options.out
    folder = out / "layers" if choices.layers else out
    subject = Subject(_loading(case, preset, loading), chat, folder / "model.json")
    settings = Settings(preset, choices, subject, engine, framing)
    config: dict[str, Any] = {"benchmark": case.name, "preset": preset.name, **asdict(choices)}
    tracker = open_tracker(options.wandb, name=out.name, config=config, folder=folder)
    stages = SafetyBenchmark(case, settings, data_of(settings), tracker).stages()
    stages.append(report_stage(case, settings, stages))
    chosen = stage_names(stages, choices.stages)
    subject.note()
    return Plan(stages, settings.pieces, folder, chosen, tracker, processes)


def _loading(case: Case, preset: SafetyPreset, loading: ModelOptions) -> ModelOptions:
    model = loading.model or preset.model
    if model is None:
        raise InputError(
            f"the preset {preset.name} needs a model: give --model, such as the folder that "
            f"`python -m benchmarks.organisms {case.name} --out FOLDER` writes"
        )
    four = loading.load_in_4bit or (
        preset.recipe.loading.get("load_in_4bit", False) and is_model(model, preset.model)
    )
    return replace(loading, model=model, load_in_4bit=four)
