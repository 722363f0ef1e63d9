"""`python -m benchmarks.axbench --preset smollm2-135m --data FOLDER`.

Every method of a preset on every concept: data, training, factors, generation, judging, selection,
report. What is finished is not done again, so the same command goes on after an interruption, and
adds concepts or methods.
"""

import logging
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from benchmarks.axbench.comparable import changed_methods, differences
from benchmarks.axbench.data import CONCEPT_COUNT, AxBenchData, open_data
from benchmarks.axbench.estimate import estimate_text
from benchmarks.axbench.judging import Judging
from benchmarks.axbench.neutral import Neutral, estimate_neutral
from benchmarks.axbench.presets import PRESETS, Preset
from benchmarks.axbench.published import Cell
from benchmarks.axbench.sources import CONCEPT500
from benchmarks.axbench.stages import AxBench
from benchmarks.command import Command, Plan
from benchmarks.judges.client import Endpoint
from benchmarks.judges.options import JudgeOptions
from benchmarks.presets import chat_of, preset_named
from benchmarks.steps import Answering, Subject
from concept_das.cli.options import ChatOptions, ModelOptions
from concept_das.errors import InputError
from concept_das.methods.settings import check_changes, with_changes
from concept_das.runs.ranges import parse_range
from concept_das.runs.running import WorkerOptions
from concept_das.runs.stages import stage_names
from concept_das.training.options import EngineOptions
from concept_das.training.tracking import TrackingMode, open_tracker
from concept_das.words import DIRECTIONS, Direction

log = logging.getLogger(__name__)


def axbench(
    preset: str,
    loading: ModelOptions,
    chat: ChatOptions,
    judging: JudgeOptions,
    engine: EngineOptions,
    processes: WorkerOptions,
    data: str = "hub",
    cell: Cell | None = None,
    out: Path | None = None,
    concepts: str | None = None,
    methods: str = "all",
    changes: dict[str, dict[str, Any]] = {},  # noqa: B006 (shown in the help)
    stages: str = "all",
    neutral: Neutral = "model",
    suppression: bool = True,
    generator: str = "hf",
    seed: int = 42,
    dry_run: bool = False,
    wandb: TrackingMode = "auto",
) -> Plan | None:
    """Run AxBench: steer towards and away from concepts by every method, and score the answers.

    Args:
        preset: model, layer, hyper-parameters and strengths, such as gemma-2-2b-l20 or
            smollm2-135m.
        data: folder with AxBench's files, a checkout of AxBench or of the release, the hub id of
            one of AxBench's sets, or hub (Concept500, the release's quadruples, AlpacaEval).
        cell: size and layer of the Gemma-2 model that AxBench took the concepts from; the preset's
            if not given.
        out: folder of the run; runs/axbench/PRESET if not given. What is finished there is kept.
        concepts: numbers of the concepts, e.g. 0:100 (0 to 99) or 3,7; the preset's, or all.
        methods: names with commas between them, or all of the preset's.
        changes: hyper-parameters in place of the preset's, as JSON by method or for all, e.g.
            '{"all": {"epochs": 6}, "cdas": {"rank": 4}}'.
        stages: names with commas between them (data, train, factors, generate, judge, select,
            report), or all; train.cdas is one method's.
        neutral: who writes neutral responses where the data have none: the model itself, or the API
            model gpt-4o-mini, whose cost is said first.
        suppression: also steer away from the concepts, which doubles the answers and their ratings.
        generator: who answers: hf (Hugging Face's generate), vllm (in this process), or the address
            of a server as http://localhost:8000/v1 (`concept-das serve`), which must have the
            trained vectors. Methods that vLLM cannot apply are answered by hf.
        seed: of training, the choice of rows, and the sampling.
        dry_run: print the rows, steps, answers and requests of the run and the judge's cost, and
            stop.
        wandb: auto (online with an API key, else offline), online, offline or off.
    """
    chosen = _changed(preset_named(PRESETS, preset), methods, changes)
    judging = replace(
        judging,
        judge=judging.judge or chosen.judge,
        judge_questions=judging.judge_questions or chosen.questions,
    )
    loading = replace(loading, model=loading.model or chosen.model)
    directions: tuple[Direction, ...] = DIRECTIONS if suppression else ("elicit",)
    if dry_run:
        asked = parse_range(concepts) if concepts else chosen.concept_ids
        count = CONCEPT_COUNT if asked is None else len(asked)
        model = judging.judge_model or Endpoint.model
        rated = replace(chosen, judge=judging.judge or chosen.judge)
        given = data in ("hub", CONCEPT500)
        print(estimate_text(rated, count, neutral, model, given, directions))
        return None
    if judging.judge != "proxy":
        _ = judging.axbench  # complains now and not after the answers
    texts = open_data(data, cell or chosen.cell, chosen.texts)
    numbers = _concepts(texts, chosen, concepts)
    folder = out or Path("runs/axbench") / chosen.name
    subject = Subject(loading, chat_of(chat, chosen.recipe), folder / "model.json")
    answering = Answering(
        *(chosen.new_tokens, chosen.temperature, seed), top_k=chosen.top_k, top_p=chosen.top_p
    )
    differing = []
    if chosen.cell is not None:
        differing = differences(chosen, subject, texts, judging, answering)
        if cell not in (None, chosen.cell):
            differing.append(f"the concepts are those of {cell}, not of {chosen.cell}")
    options = {"preset": preset, "data": data, "concepts": numbers, **asdict(chosen)}
    judge = Judging(judging, subject, answering)
    writer = None
    if neutral == "api":
        writer = Endpoint(cache=judging.judge_cache, base_url=judging.judge_url)
        missing = [texts.concept(i) for i in numbers if texts.contrastive(i) is None]
        log.info("neutral responses: %s", estimate_neutral(writer, missing))
    tracker = open_tracker(wandb, name=folder.name, config=options, folder=folder)
    benchmark = AxBench(
        preset=chosen,
        data=texts,
        subject=subject,
        judging=judge,
        answering=replace(answering, generator=generator),
        engine=engine,
        neutral=neutral,
        endpoint=writer,
        seed=seed,
        differences=differing,
        apart=changed_methods(chosen, changes),
        directions=directions,
        tracker=tracker,
    )
    every = benchmark.stages()
    chosen_stages = stage_names(every, stages)
    subject.note()
    return Plan(every, benchmark.pieces(numbers), folder, chosen_stages, tracker, processes)


def _changed(preset: Preset, methods: str, changes: dict[str, dict[str, Any]]) -> Preset:
    """The preset with the methods and hyper-parameters that are asked for."""
    if methods != "all":
        preset = preset.only([name.strip() for name in methods.split(",")])
    check_changes(changes, preset.methods)
    longest = changes.get("all", {}).get("max_response_tokens", preset.response_tokens)
    configs = {name: with_changes(one, changes) for name, one in preset.configs.items()}
    recipe = replace(preset.recipe, configs=configs)
    return replace(preset, recipe=recipe, response_tokens=longest)


def _concepts(data: AxBenchData, preset: Preset, asked: str | None) -> list[int]:
    """The concepts of the run: those asked for, or the preset's, or all of the data.

    Raises:
        InputError: if the data do not have one.
    """
    if asked is not None:
        numbers = parse_range(asked)
    else:
        numbers = list(preset.concept_ids or data.concept_ids)
    missing = sorted(set(numbers) - set(data.concept_ids))
    if missing:
        raise InputError(
            f"the data have no concept {missing[0]}; they have {min(data.concept_ids)} to "
            f"{max(data.concept_ids)}"
        )
    return numbers


main = Command("benchmarks.axbench.__main__", axbench)

if __name__ == "__main__":
    sys.exit(main())
