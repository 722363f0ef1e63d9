"""The stages of a safety benchmark.

`data`, then what the untouched model does (`generate.unsteered`, `measure.unsteered`,
`capabilities.unsteered`), then `train.METHOD`, `generate.METHOD`, `measure.METHOD` and
`capabilities.METHOD` of every method and seed, then the report. With a judge, `judge.METHOD` stands
between answers and measures. What no seed changes is one job for all seeds, so that methods and
seeds can be added and nothing is done again.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from benchmarks.capabilities.scores import capability_scores
from benchmarks.safety.case import Case
from benchmarks.safety.data import read_prompt_sets, read_rows
from benchmarks.safety.measures import measure_answers, measure_divergences, merged, steering_of
from benchmarks.safety.settings import Plan
from benchmarks.steps import Asked, answer, train_method, trained_vector
from concept_das.data.batches import batches
from concept_das.errors import InputError
from concept_das.methods.registry import find_method
from concept_das.runs.files import write_atomically
from concept_das.runs.stages import Job, Stage
from concept_das.steering.artifact import Artifact
from concept_das.steering.context import Steering
from concept_das.training.tracking import PrefixedTracker, Tracker
from concept_das.words import Direction

UNSTEERED = "unsteered"
ANSWERS_FILE = "answers.parquet"
MEASURES_FILE = "measures.json"
SCORES_FILE = "scores.json"
VERDICTS_FILE = "verdicts.json"


def stages_of(case: Case, data: Stage, plan: Plan, tracker: Tracker) -> list[Stage]:
    """Every stage but the report, in order.

    Args:
        data: the shared stage that writes `benchmarks.safety.data`'s files.
    """
    subject = plan.subject.description
    answering = {"subject": subject, **plan.answering.description}
    asks = case.asks(("elicit", "suppress"))
    divergences = [asdict(one) for one in case.divergences]
    rates = [[one.name, one.direction, one.prompts] for one in case.rates]
    measuring = {"subject": subject, "divergences": divergences, "rates": rates}
    tasks = {
        "subject": subject,
        "tasks": plan.tasks,
        "limit": plan.capability_limit,
        "framing": asdict(plan.framing),
    }

    def stage(
        name: str,
        run: Callable[..., None],
        needs: tuple[str, ...],
        options: dict[str, Any],
        shared: bool,
    ) -> Stage:
        return Stage(name, partial(run, plan=plan, case=case), needs, options, shared=shared)

    def judged(method: str, shared: bool) -> tuple[list[Stage], tuple[str, ...]]:
        """The stage of a method's verdicts, and its name; neither if nobody judges."""
        if case.judge is None:
            return [], ()
        name, judge = f"judge.{method}", case.judge.description
        run = partial(_judge, method=method)
        return [stage(name, run, (f"generate.{method}",), {"judge": judge}, shared)], (name,)

    verdicts, plain_verdicts = judged(UNSTEERED, True)
    stages = [
        data,
        stage(f"generate.{UNSTEERED}", _answer_untouched, ("data",), answering, True),
        *verdicts,
        stage(
            f"measure.{UNSTEERED}",
            _measure,
            ("data", f"generate.{UNSTEERED}", *plain_verdicts),
            measuring,
            True,
        ),
    ]
    if plan.tasks:
        stages.append(stage(f"capabilities.{UNSTEERED}", _score_untouched, (), tasks, True))
    for method, config in plan.configs.items():
        # Layers are pieces too, and those matter to methods that draw nothing.
        shared = plan.layer is not None and not find_method(method).draws
        multipliers = {"multipliers": plan.multipliers[method], "rule": plan.rule}
        # The engine changes speed alone.
        training = {
            "subject": subject,
            "layer": None if config.layers else plan.layer,
            "config": asdict(config),
        }
        train, generate = f"train.{method}", f"generate.{method}"
        verdicts, own_verdicts = judged(method, shared)
        stages += [
            stage(
                train, partial(_train, tracker=tracker, method=method), ("data",), training, shared
            ),
            stage(
                generate,
                partial(_answer, method=method),
                ("data", train),
                {**answering, **multipliers, "asks": asks},
                shared,
            ),
            *verdicts,
            stage(
                f"measure.{method}",
                partial(_measure, method=method),
                (
                    "data",
                    f"generate.{UNSTEERED}",
                    *plain_verdicts,
                    train,
                    generate,
                    *own_verdicts,
                ),
                {**measuring, **multipliers},
                shared,
            ),
        ]
        if plan.tasks:
            scored = {
                **tasks,
                "multipliers": plan.capability_multipliers[method],
                "rule": plan.rule,
            }
            score = partial(_score, method=method)
            stages.append(stage(f"capabilities.{method}", score, (train,), scored, shared))
    return stages


def _train(job: Job, plan: Plan, case: Case, tracker: Tracker, method: str) -> None:
    config, layer, name = plan.configs[method], plan.layer, method
    for piece in job.pieces:  # none of a shared stage
        config = replace(config, seed=piece.inputs["seed"])
        layer = piece.inputs.get("layer", layer)
        name = f"{method}/{piece.key}"
    assert layer is not None
    rows = read_rows(job.source("data"))
    train_method(
        job, plan.subject, rows, layer, config, plan.engine, PrefixedTracker(tracker, name)
    )


def _answer_untouched(job: Job, plan: Plan, case: Case) -> None:
    asked = [
        Asked(f"{name}/{number}", text, None, "", {"prompts": name, "number": number})
        for name, texts in read_prompt_sets(job.source("data")).items()
        for number, text in enumerate(texts)
    ]
    _write_answers(job, plan, asked)


def _answer(job: Job, plan: Plan, case: Case, method: str) -> None:
    vector = trained_vector(job.source(f"train.{method}"), plan.subject)
    sets = read_prompt_sets(job.source("data"))
    asked = [
        Asked(
            f"{direction}/{name}/{multiplier:g}/{number}",
            text,
            steering_of(vector, direction, multiplier, plan.rule),
            "",
            {"direction": direction, "prompts": name, "multiplier": multiplier, "number": number},
        )
        for direction, name in case.asks(vector.directions)
        for multiplier in strengths(vector, plan.multipliers[method])
        for number, text in enumerate(sets[name])
    ]
    _write_answers(job, plan, asked)


def _write_answers(job: Job, plan: Plan, asked: Sequence[Asked]) -> None:
    frame = answer(plan.subject, asked, job.rows(), plan.answering, job.stage)
    write_atomically(job.folder / ANSWERS_FILE, frame.to_parquet(index=False))


def _judge(job: Job, plan: Plan, case: Case, method: str) -> None:
    assert case.judge is not None
    answers = read_answers(job.source(f"generate.{method}"))
    replies = dict(enumerate(zip(answers["prompt"], answers["text"], strict=True)))
    with job.rows() as log:
        missing = log.missing(map(str, replies))
        for keys in batches(missing, case.judge.together):
            found = case.judge.verdicts([replies[int(key)] for key in keys])
            for key, verdict in zip(keys, found, strict=True):
                log.append(key, {"verdict": verdict})
        verdicts = list(log.frame([str(number) for number in replies])["verdict"])
    if all(verdict is None for verdict in verdicts):
        raise InputError(
            f"{case.judge.description['model']} gave no verdict that can be read on any answer of "
            f"{method}; choose another judge"
        )
    write_atomically(job.folder / VERDICTS_FILE, json.dumps(verdicts).encode())


def _judged_answers(job: Job, case: Case, method: str) -> pd.DataFrame:
    """Answers, with a column verdict if there is a judge."""
    answers = read_answers(job.source(f"generate.{method}"))
    if case.judge is None:
        return answers
    verdicts = json.loads((job.source(f"judge.{method}") / VERDICTS_FILE).read_bytes())
    return answers.assign(verdict=pd.Series(verdicts, dtype=object))


def _measure(job: Job, plan: Plan, case: Case, method: str = UNSTEERED) -> None:
    sets = read_prompt_sets(job.source("data"))
    untouched = _judged_answers(job, case, UNSTEERED)
    described: dict[str, Any] = {"method": method}
    vector, answers = None, None
    multipliers: tuple[float, ...] = ()
    if method != UNSTEERED:
        vector = trained_vector(job.source(f"train.{method}"), plan.subject)
        answers = _judged_answers(job, case, method)
        multipliers = strengths(vector, plan.multipliers[method])
        described |= {
            "seed": job.pieces[0].inputs["seed"] if job.pieces else None,
            "layers": " ".join(map(str, vector.layers)),
            "rank": vector.rank,
            "parameters": vector.parameters,
        }
    table = merged(
        measure_answers(case, untouched, answers, multipliers),
        measure_divergences(
            job.rows("divergences"),
            case,
            plan.subject,
            sets,
            untouched,
            vector,
            multipliers,
            plan.rule,
        ),
    )
    for place, (name, value) in enumerate(described.items()):
        table.insert(place, name, value)
    records = json.dumps(table.to_dict("records"), indent=1, default=float)
    write_atomically(job.folder / MEASURES_FILE, records.encode())


def strengths(vector: Artifact, multipliers: Sequence[float]) -> tuple[float, ...]:
    """The multipliers that mean something: text has no strength."""
    return (1.0,) if vector.is_text else tuple(multipliers)


def _score_untouched(job: Job, plan: Plan, case: Case) -> None:
    _write_scores(job, plan, [(1.0, None)])


def _score(job: Job, plan: Plan, case: Case, method: str) -> None:
    vector = trained_vector(job.source(f"train.{method}"), plan.subject)
    direction = scored_direction(vector, plan)
    steerings = [
        (multiplier, steering_of(vector, direction, multiplier, plan.rule))
        for multiplier in plan.capability_multipliers[method]
        if direction is not None
    ]
    _write_scores(job, plan, steerings)


def scored_direction(vector: Artifact, plan: Plan) -> Direction | None:
    """The direction that capabilities are scored in, suppression where possible.

    None for what lm-eval's prompts cannot be steered with: text, and edits of a prompt's ends.
    """
    direction: Direction = "suppress" if "suppress" in vector.directions else "elicit"
    if vector.is_text:
        return None
    edits = vector.edits(plan.subject.loaded.model, direction, 1.0)
    return None if any(edit.ends is not None for edit in edits) else direction


def _write_scores(job: Job, plan: Plan, steerings: Sequence[tuple[float, Steering | None]]) -> None:
    loaded = plan.subject.loaded
    found = []
    for multiplier, steering in steerings:
        frame = capability_scores(
            loaded.model,
            loaded.tokenizer,
            plan.tasks,
            steering=steering,
            limit=plan.capability_limit,
            apply_chat_template=True,
            framing=plan.framing,
        )
        found.append({"multiplier": multiplier, "scores": frame.to_dict("records")})
    write_atomically(job.folder / SCORES_FILE, json.dumps(found, default=float).encode())


def read_answers(folder: Path) -> pd.DataFrame:
    """What a model answered: `prompts` (the set), `number`, `prompt` and `text`.

    A steered model's have `direction` and `multiplier` too.
    """
    return pd.read_parquet(folder / ANSWERS_FILE)


def read_measures(folder: Path) -> pd.DataFrame:
    """One row per multiplier."""
    return pd.DataFrame(json.loads((folder / MEASURES_FILE).read_bytes()))


def read_scores(folder: Path) -> dict[float, pd.DataFrame]:
    """The table of `capability_scores` by multiplier."""
    found = json.loads((folder / SCORES_FILE).read_bytes())
    return {entry["multiplier"]: pd.DataFrame(entry["scores"]) for entry in found}
