"""The stages of a safety benchmark.

`data`, then what the untouched model does (`generate.unsteered`, `measure.unsteered`,
`capabilities.unsteered`), then `train.METHOD`, `generate.METHOD`, `measure.METHOD` and
`capabilities.METHOD` of every method and seed, then the report. With a judge, `judge.METHOD` stands
between answers and measures. What no seed changes is one job for all seeds, so that methods and
seeds can be added and nothing is done again.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from benchmarks.capabilities.scores import capability_scores
from benchmarks.safety.case import Case
from benchmarks.safety.data import PromptSets, read_prompt_sets, read_rows
from benchmarks.safety.measures import measure_answers, measure_divergences, steering_of
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
from concept_das.words import DIRECTIONS, Direction

UNSTEERED = "unsteered"
ANSWERS_FILE = "answers.parquet"
MEASURES_FILE = "measures.json"
SCORES_FILE = "scores.json"
VERDICTS_FILE = "verdicts.json"


@dataclass(frozen=True)
class SafetyBenchmark:
    """A run of a safety benchmark.

    Attributes:
        case: the behaviour that is measured.
        plan: the model, the methods and their settings.
        data: the shared stage that writes `benchmarks.safety.data`'s files.
        tracker: gets training curves.
    """

    case: Case
    plan: Plan
    data: Stage
    tracker: Tracker

    def stages(self) -> list[Stage]:
        """Every stage but the report, in order."""
        answering = {"subject": self._model, **self.plan.answering.description}
        run = self._answer_untouched
        stages = [
            self.data,
            Stage(f"generate.{UNSTEERED}", run, ("data",), answering, shared=True),
            *self._judge_stages(UNSTEERED, shared=True),
            self._measure_stage(UNSTEERED, {}, shared=True),
        ]
        if self.plan.tasks:
            options = self._capability_options()
            run = self._score_untouched
            stages.append(Stage(f"capabilities.{UNSTEERED}", run, (), options, shared=True))
        for method in self.plan.configs:
            stages += self._method_stages(method, answering)
        return stages

    @property
    def _model(self) -> dict[str, Any]:
        return self.plan.subject.description

    def _method_stages(self, method: str, answering: dict[str, Any]) -> list[Stage]:
        plan = self.plan
        config = plan.configs[method]
        # Layers are pieces too, and those matter to methods that draw nothing.
        shared = plan.layer is not None and not find_method(method).draws
        strength = {"multipliers": plan.multipliers[method], "rule": plan.rule}
        # The engine changes speed alone, so it is no option of the stage.
        training = {
            "subject": self._model,
            "layer": None if config.layers else plan.layer,
            "config": asdict(config),
        }
        asking = {**answering, **strength, "asks": self.case.asks(DIRECTIONS)}
        train, generate = f"train.{method}", f"generate.{method}"
        run = partial(self._answer, method)
        stages = [
            Stage(train, partial(self._train, method), ("data",), training, shared=shared),
            Stage(generate, run, ("data", train), asking, shared=shared),
            *self._judge_stages(method, shared),
            self._measure_stage(method, strength, shared),
        ]
        if plan.tasks:
            multipliers = plan.capability_multipliers[method]
            options = {**self._capability_options(), "multipliers": multipliers, "rule": plan.rule}
            run = partial(self._score, method)
            stages.append(Stage(f"capabilities.{method}", run, (train,), options, shared=shared))
        return stages

    def _judge_stages(self, method: str, shared: bool) -> list[Stage]:
        """The stage of a method's verdicts; none without a judge."""
        if self.case.judge is None:
            return []
        options = {"judge": self.case.judge.description}
        run, needs = partial(self._judge, method), (f"generate.{method}",)
        return [Stage(f"judge.{method}", run, needs, options, shared=shared)]

    def _measure_stage(self, method: str, strength: dict[str, Any], shared: bool) -> Stage:
        measuring = {
            "subject": self._model,
            "divergences": [asdict(one) for one in self.case.divergences],
            "rates": [[one.name, one.direction, one.prompts] for one in self.case.rates],
        }
        needs = ["data", *self._judged(UNSTEERED)]
        if method != UNSTEERED:
            needs += [f"train.{method}", *self._judged(method)]
        run, options = partial(self._measure, method), {**measuring, **strength}
        return Stage(f"measure.{method}", run, tuple(needs), options, shared=shared)

    def _judged(self, method: str) -> list[str]:
        """The stages that give a method's answers and, with a judge, their verdicts."""
        kinds = ("generate", "judge") if self.case.judge is not None else ("generate",)
        return [f"{kind}.{method}" for kind in kinds]

    def _capability_options(self) -> dict[str, Any]:
        return {
            "subject": self._model,
            "tasks": self.plan.tasks,
            "limit": self.plan.capability_limit,
            "framing": asdict(self.plan.framing),
        }

    def _train(self, method: str, job: Job) -> None:
        plan = self.plan
        config, layer, name = plan.configs[method], plan.layer, method
        for piece in job.pieces:  # none of a shared stage
            config = replace(config, seed=piece.inputs["seed"])
            layer = piece.inputs.get("layer", layer)
            name = f"{method}/{piece.key}"
        assert layer is not None
        rows = read_rows(job.source("data"))
        tracker = PrefixedTracker(self.tracker, name)
        train_method(job, plan.subject, rows, layer, config, plan.engine, tracker)

    def _vector(self, method: str, job: Job) -> Artifact:
        return trained_vector(job.source(f"train.{method}"), self.plan.subject)

    def _answer_untouched(self, job: Job) -> None:
        asked = [
            Asked(f"{name}/{number}", text, None, "", {"prompts": name, "number": number})
            for name, texts in read_prompt_sets(job.source("data")).items()
            for number, text in enumerate(texts)
        ]
        self._write_answers(job, asked)

    def _answer(self, method: str, job: Job) -> None:
        vector = self._vector(method, job)
        sets = read_prompt_sets(job.source("data"))
        self._write_answers(job, list(self._asked(method, vector, sets)))

    def _asked(self, method: str, vector: Artifact, sets: PromptSets) -> Iterator[Asked]:
        for direction, name in self.case.asks(vector.directions):
            for multiplier in strengths(vector, self.plan.multipliers[method]):
                steering = steering_of(vector, direction, multiplier, self.plan.rule)
                for number, text in enumerate(sets[name]):
                    yield Asked(
                        key=f"{direction}/{name}/{multiplier:g}/{number}",
                        prompt=text,
                        steering=steering,
                        noise="",
                        columns={
                            "direction": direction,
                            "prompts": name,
                            "multiplier": multiplier,
                            "number": number,
                        },
                    )

    def _write_answers(self, job: Job, asked: Sequence[Asked]) -> None:
        frame = answer(self.plan.subject, asked, job.rows(), self.plan.answering, job.stage)
        write_atomically(job.folder / ANSWERS_FILE, frame.to_parquet(index=False))

    def _judge(self, method: str, job: Job) -> None:
        judge = self.case.judge
        assert judge is not None
        answers = read_answers(job.source(f"generate.{method}"))
        replies = dict(enumerate(zip(answers["prompt"], answers["text"], strict=True)))
        with job.rows() as log:
            missing = log.missing(map(str, replies))
            for keys in batches(missing, judge.together):
                found = judge.verdicts([replies[int(key)] for key in keys])
                for key, verdict in zip(keys, found, strict=True):
                    log.append(key, {"verdict": verdict})
            verdicts = list(log.frame([str(number) for number in replies])["verdict"])
        if all(verdict is None for verdict in verdicts):
            raise InputError(
                f"{judge.description['model']} gave no verdict that can be read on any answer of "
                f"{method}; choose another judge"
            )
        write_atomically(job.folder / VERDICTS_FILE, json.dumps(verdicts).encode())

    def _judged_answers(self, method: str, job: Job) -> pd.DataFrame:
        """Answers, with a column verdict if there is a judge."""
        answers = read_answers(job.source(f"generate.{method}"))
        if self.case.judge is None:
            return answers
        verdicts = json.loads((job.source(f"judge.{method}") / VERDICTS_FILE).read_bytes())
        return answers.assign(verdict=pd.Series(verdicts, dtype=object))

    def _measure(self, method: str, job: Job) -> None:
        plan, case = self.plan, self.case
        sets = read_prompt_sets(job.source("data"))
        untouched = self._judged_answers(UNSTEERED, job)
        described: dict[str, Any] = {"method": method}
        vector, answers = None, None
        multipliers: tuple[float, ...] = ()
        if method != UNSTEERED:
            vector = self._vector(method, job)
            answers = self._judged_answers(method, job)
            multipliers = strengths(vector, plan.multipliers[method])
            described |= {
                "seed": job.pieces[0].inputs["seed"] if job.pieces else None,
                "layers": " ".join(map(str, vector.layers)),
                "rank": vector.rank,
                "parameters": vector.parameters,
            }
        rates = measure_answers(case, untouched, answers, multipliers)
        log = job.rows("divergences")
        distances = measure_divergences(
            log, case, plan.subject, sets, untouched, vector, multipliers, plan.rule
        )
        table = pd.concat([rates, distances.drop(columns="multiplier")], axis=1)
        for place, (name, value) in enumerate(described.items()):
            table.insert(place, name, value)
        records = json.dumps(table.to_dict("records"), indent=1, default=float)
        write_atomically(job.folder / MEASURES_FILE, records.encode())

    def _score_untouched(self, job: Job) -> None:
        self._write_scores(job, [(1.0, None)])

    def _score(self, method: str, job: Job) -> None:
        vector = self._vector(method, job)
        direction = scored_direction(vector, self.plan)
        steerings = [
            (multiplier, steering_of(vector, direction, multiplier, self.plan.rule))
            for multiplier in self.plan.capability_multipliers[method]
            if direction is not None
        ]
        self._write_scores(job, steerings)

    def _write_scores(self, job: Job, steerings: Sequence[tuple[float, Steering | None]]) -> None:
        plan = self.plan
        found = []
        for multiplier, steering in steerings:
            frame = capability_scores(
                plan.subject.loaded.model,
                plan.subject.loaded.tokenizer,
                plan.tasks,
                steering=steering,
                limit=plan.capability_limit,
                apply_chat_template=True,
                framing=plan.framing,
            )
            found.append({"multiplier": multiplier, "scores": frame.to_dict("records")})
        write_atomically(job.folder / SCORES_FILE, json.dumps(found, default=float).encode())


def strengths(vector: Artifact, multipliers: Sequence[float]) -> tuple[float, ...]:
    """The multipliers that mean something: text has no strength."""
    return (1.0,) if vector.is_text else tuple(multipliers)


def scored_direction(vector: Artifact, plan: Plan) -> Direction | None:
    """The direction that capabilities are scored in, suppression where possible.

    None for what lm-eval's prompts cannot be steered with: text, and edits of a prompt's ends.
    """
    direction: Direction = "suppress" if "suppress" in vector.directions else "elicit"
    if vector.is_text:
        return None
    edits = vector.edits(plan.subject.loaded.model, direction, 1.0)
    return None if any(edit.ends is not None for edit in edits) else direction


def read_answers(folder: Path) -> pd.DataFrame:
    """A model's answers: `prompts` (the set), `number`, `prompt` and `text`.

    Those of a steered model have `direction` and `multiplier` too.
    """
    return pd.read_parquet(folder / ANSWERS_FILE)


def read_measures(folder: Path) -> pd.DataFrame:
    """One row per multiplier."""
    return pd.DataFrame(json.loads((folder / MEASURES_FILE).read_bytes()))


def read_scores(folder: Path) -> dict[float, pd.DataFrame]:
    """The table of `capability_scores` by multiplier."""
    found = json.loads((folder / SCORES_FILE).read_bytes())
    return {entry["multiplier"]: pd.DataFrame(entry["scores"]) for entry in found}
