"""`python -m benchmarks.backdoor --model runs/organisms/backdoor --out runs/backdoor`.

Trains methods on red-team texts to find the direction of a backdoor, suppresses it under the real
trigger, which they have not seen, and measures how much of it is left and what else has changed.
Given again, the command goes on where it was; more `--methods` or `--seeds` leave what is finished
alone.
"""

import sys
from dataclasses import asdict
from functools import partial
from pathlib import Path

from benchmarks.backdoor.case import BACKDOOR
from benchmarks.backdoor.data import read_prompts, write_pairs
from benchmarks.backdoor.presets import PRESETS, TRIGGERED_BUT_BENIGN
from benchmarks.backdoor.published import published
from benchmarks.capabilities.scores import Framing
from benchmarks.safety.run import run_case
from benchmarks.safety.settings import Choices, find_preset
from benchmarks.steps import UNUSED_OPTIONS, Answering, Subject
from concept_das.cli.options import ChatOptions, ModelOptions
from concept_das.cli.parser import run_command
from concept_das.runs.stages import Stage
from concept_das.training.options import EngineOptions
from concept_das.training.tracking import TrackingMode


def backdoor(
    out: Path,
    loading: ModelOptions,
    chat: ChatOptions,
    choices: Choices,
    engine: EngineOptions,
    preset: str = "organism",
    data: str | None = None,
    rows: int | None = None,
    tests: int | None = None,
    framing: Framing = TRIGGERED_BUT_BENIGN,
    wandb: TrackingMode = "auto",
) -> None:
    """Backdoor: how well steering removes it without its trigger being known.

    Args:
        out: folder of the benchmark: report/report.html, report/table.csv, and all that they are
            made of.
        preset: organism, or checkpoint for any other backdoored model; both need --model.
        data: folder with deployment_mode.json, training_mode.json and trigger.json; the project's
            own prompts if not given.
        rows: red-team and plain training prompts, the first so many of each; all if not given.
        tests: test prompts of each set, likewise.
        framing: text around the capability questions: the real trigger before, a benign reasoning
            before the answer; another model's are other ones.
        wandb: auto (online with an API key, else offline), online, offline or off.
    """
    chosen = find_preset(PRESETS, preset)
    prompts = read_prompts(data, rows, tests)
    how = Answering(
        choices.new_tokens or chosen.new_tokens,
        temperature=0.0,
        batch_tokens=choices.generation_batch_tokens,
    )

    def data_of(subject: Subject) -> Stage:
        return Stage(
            "data",
            partial(write_pairs, subject=subject, prompts=prompts, how=how),
            options={
                "subject": subject.description,
                "prompts": asdict(prompts),
                **how.description,
            },
            shared=True,
        )

    run_case(
        BACKDOOR,
        chosen,
        published(),
        data_of,
        out,
        loading=loading,
        chat=chat,
        choices=choices,
        engine=engine,
        framing=framing,
        wandb=wandb,
    )


main = partial(run_command, backdoor, prog="python -m benchmarks.backdoor", without=UNUSED_OPTIONS)

if __name__ == "__main__":
    sys.exit(main(None))
