"""`python -m benchmarks.backdoor --model runs/organisms/backdoor --out runs/backdoor`.

Trains methods on red-team texts to find the direction of a backdoor, suppresses it under the real
trigger, which they have not seen, and measures how much of it is left and what else has changed.
Given again, the command goes on where it was; more `--methods` or `--seeds` leave what is finished
alone.
"""

import sys
from dataclasses import asdict, replace
from functools import partial

from benchmarks.backdoor.case import BACKDOOR
from benchmarks.backdoor.data import read_prompts, write_pairs
from benchmarks.backdoor.presets import PRESETS, TRIGGERED_BUT_BENIGN
from benchmarks.capabilities.scores import Framing
from benchmarks.command import Command, Plan
from benchmarks.presets import preset_named
from benchmarks.safety.estimate import Size
from benchmarks.safety.run import RunOptions, plan_case
from benchmarks.safety.settings import Choices, Settings
from concept_das.cli.options import ChatOptions, ModelOptions
from concept_das.runs.running import WorkerOptions
from concept_das.runs.stages import Stage
from concept_das.training.options import EngineOptions


def backdoor(
    options: RunOptions,
    loading: ModelOptions,
    chat: ChatOptions,
    choices: Choices,
    engine: EngineOptions,
    processes: WorkerOptions,
    preset: str = "organism",
    data: str | None = None,
    framing: Framing = TRIGGERED_BUT_BENIGN,
) -> Plan | None:
    """Backdoor: how well steering removes it without its trigger being known.

    Args:
        preset: organism, or checkpoint for any other backdoored model; both need --model.
        data: checkout of the authors' release, or folder with its three files of prompts; the
            project's own prompts if not given.
        framing: text around the capability questions: the real trigger before, a benign reasoning
            before the answer; another model's are other ones.
    """
    prompts = read_prompts(data, options.rows, options.tests)
    plain, redteam = len(prompts.plain), len(prompts.redteam)
    tests = {name: len(texts) for name, texts in prompts.test.items()}
    size = Size(min(plain, redteam), tests, written=plain + redteam)

    def data_of(settings: Settings) -> Stage:
        how, subject = replace(settings.answering, generator="hf"), settings.subject
        run = partial(write_pairs, subject=subject, prompts=prompts, how=how)
        model = subject.description
        content = {"subject": model, "prompts": asdict(prompts), **how.description}
        return Stage("data", run, (), content, subject.made_by, shared=True)

    given = (options, loading, chat, choices, engine, processes)
    return plan_case(BACKDOOR, preset_named(PRESETS, preset), data_of, size, *given, framing)


main = Command("benchmarks.backdoor.__main__", backdoor)

if __name__ == "__main__":
    sys.exit(main())
