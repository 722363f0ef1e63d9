"""`python -m benchmarks.refusal --model runs/organisms/refusal --out runs/refusal`.

Trains methods to find the direction of refusal, takes refusal away from harmful requests with it,
adds it to harmless ones, and measures both beside the untouched model. Given again, the command
goes on where it was; more `--methods` or `--seeds` leave what is finished alone.
"""

import sys
from functools import partial

from benchmarks.command import UNUSED_OPTIONS, Command, Plan
from benchmarks.judges.options import JudgeOptions
from benchmarks.judges.refusals import RefusalJudge
from benchmarks.presets import preset_named
from benchmarks.refusal.case import REFUSAL, judged
from benchmarks.refusal.data import read_data
from benchmarks.refusal.presets import PRESETS
from benchmarks.safety.data import write_data
from benchmarks.safety.estimate import Size
from benchmarks.safety.run import RunOptions, plan_case
from benchmarks.safety.settings import Choices
from concept_das.cli.options import ChatOptions, ModelOptions
from concept_das.data.quadruples import data_hash
from concept_das.runs.running import WorkerOptions
from concept_das.runs.stages import Stage
from concept_das.training.options import EngineOptions


def refusal(
    options: RunOptions,
    loading: ModelOptions,
    chat: ChatOptions,
    choices: Choices,
    engine: EngineOptions,
    processes: WorkerOptions,
    judging: JudgeOptions,
    preset: str = "organism",
    data: str | None = None,
) -> Plan | None:
    """Refusal: how well steering takes it away and adds it, and what that costs.

    Args:
        preset: organism (needs --model), phi-3.5-mini, llama-3.1-8b or llama-3.1-70b.
        data: checkout of the authors' release, folder with its two files, or hub data set; the
            project's own prompts if not given.
    """
    pairs, sets = read_data(data, options.rows, options.tests)
    size = Size(len(pairs), {name: len(texts) for name, texts in sets.items()})
    run = partial(write_data, rows=pairs, prompts=sets, counts={})
    content = {"rows": data_hash(pairs), "prompts": sets}
    stage = Stage("data", run, options=content, shared=True)
    case = judged(RefusalJudge(judging)) if judging.judge else REFUSAL
    given = (options, loading, chat, choices, engine, processes)
    return plan_case(case, preset_named(PRESETS, preset), lambda _settings: stage, size, *given)


main = Command("benchmarks.refusal.__main__", refusal, UNUSED_OPTIONS | {"judge_questions"})

if __name__ == "__main__":
    sys.exit(main())
