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
from benchmarks.judges.refusals import Verdict
from benchmarks.safety.case import Case
from benchmarks.safety.data import PromptSets, read_prompt_sets, read_rows
from benchmarks.safety.measures import (
    measure_answers,
    measure_divergences,
    steering_of,
    surprises_of,
)
from benchmarks.safety.settings import Settings
from benchmarks.steps import (
    UNSTEERED,
    Answering,
    Asked,
    Subject,
    answer,
    made_by_model,
    train_method,
    trained_vector,
)
from concept_das.data.batches import batches
from concept_das.data.files import write_table
from concept_das.errors import InputError
from concept_das.methods.registry import find_method
from concept_das.runs.files import sources_of, write_atomically
from concept_das.runs.stages import Job, Stage
from concept_das.steering.artifact import Artifact
from concept_das.steering.context import Steering
from concept_das.steering.positions import EVERYWHERE
from concept_das.training.tracking import PrefixedTracker, Tracker
from concept_das.words import DIRECTIONS, Direction

ANSWERS_FILE = "answers.parquet"
MEASURES_FILE = "measures.json"
SCORES_FILE = "scores.json"
VERDICTS_FILE = "verdicts.json"


# The modules that decide on a rate, the phrases of refusals among them.
_RULES = ("benchmarks.detectors", "benchmarks.safety.measures")


@dataclass(frozen=True)
class SafetyBenchmark:
    """A run of a safety benchmark.

    Attributes:
        case: the behaviour that is measured.
        settings: the model, the methods and their strengths.
        data: the shared stage that writes `benchmarks.safety.data`'s files.
        tracker: gets training curves.
    """

    case: Case
    settings: Settings
    data: Stage
    tracker: Tracker

    def stages(self) -> list[Stage]:
        """Every stage but the report, in order."""
        stages = [self.data]
        if self.case.judge is not None:
            labelled = [asdict(one) for one in self.case.rules[0].labelled]
            options = {"judge": self.case.judge.description, "labelled": labelled}
            stages.append(Stage("agreement", self._agree, (), options, shared=True))
        for method in (UNSTEERED, *self.settings.configs):
            stages += self._stages_of(method)
        return stages

    def _stages_of(self, method: str) -> Iterator[Stage]:
        """The stages of a method or of the untouched model."""
        settings, case = self.settings, self.case
        model = {"subject": settings.subject.description}
        computed = settings.subject.made_by
        steered = method != UNSTEERED
        # Layers are pieces too, and those matter to methods that draw nothing.
        shared = not steered or (settings.layer is not None and not find_method(method).draws)
        stage = partial(Stage, shared=shared)
        generate, needs = f"generate.{method}", ("data", *self._judged(UNSTEERED))
        trained: tuple[str, ...] = ()
        strength: dict[str, Any] = {}
        asks: dict[str, Any] = {}
        scored_at: dict[str, Any] = {}
        if steered:
            trained = (f"train.{method}",)
            needs += (*trained, *self._judged(method))
            strength = {"multipliers": settings.multipliers(method), "rule": settings.rule}
            asks = {"asks": case.asks(DIRECTIONS)}
            scored_at = {**strength, "multipliers": settings.capability_multipliers(method)}
            config = settings.configs[method]
            layer = None if config.layers else settings.layer
            # The engine changes speed alone, so it is no option of the stage.
            training = {**model, "layer": layer, "config": config.record()}
            yield stage(trained[0], partial(self._train, method), ("data",), training, computed)
        answering = {**model, **settings.answering_of(method).description, **strength, **asks}
        run = partial(self._answer, method)
        yield stage(generate, run, ("data", *trained), answering, computed)
        if case.judge is not None:
            options = {"judge": case.judge.description}
            run = partial(self._judge, method)
            yield stage(f"judge.{method}", run, (generate,), options, case.judge.made_by)
        measuring = {
            **model,
            **strength,
            "divergences": [one.description for one in case.divergences],
            "rates": [one.description for one in case.rates],
        }
        rules = {**computed, "the rules of rates": sources_of(*_RULES)}
        yield stage(f"measure.{method}", partial(self._measure, method), needs, measuring, rules)
        if settings.tasks:
            shots = {name: count for name, count in settings.tasks.items() if count is not None}
            asking = {
                **model,
                **scored_at,
                "tasks": list(settings.tasks),
                **({"shots": shots} if shots else {}),
                "limit": settings.choices.capability_limit,
                "framing": asdict(settings.framing),
            }
            run = partial(self._score, method)
            asked_by = made_by_model(settings.subject.name, "lm_eval")
            yield stage(f"capabilities.{method}", run, trained, asking, asked_by)

    def _judged(self, method: str) -> list[str]:
        """The stages that give a method's answers and, with a judge, their verdicts."""
        kinds = ("generate", "judge") if self.case.judge is not None else ("generate",)
        return [f"{kind}.{method}" for kind in kinds]

    def _train(self, method: str, job: Job) -> None:
        settings = self.settings
        config, layer, name = settings.configs[method], settings.layer, method
        for piece in job.pieces:  # none of a shared stage
            config = replace(config, seed=piece.inputs["seed"])
            layer = piece.inputs.get("layer", layer)
            name = f"{method}/{piece.key}"
        assert layer is not None
        rows = read_rows(job.source("data"))
        tracker = PrefixedTracker(self.tracker, name)
        train_method(job, settings.subject, rows, layer, config, settings.engine, tracker)

    def _vector(self, method: str, job: Job, how: Answering | None = None) -> Artifact | None:
        """The trained artifact, see `trained_vector`; None for the untouched model."""
        if method == UNSTEERED:
            return None
        return trained_vector(job.source(f"train.{method}"), self.settings.subject, how)

    def _answer(self, method: str, job: Job) -> None:
        settings, sets = self.settings, read_prompt_sets(job.source("data"))
        how = settings.answering_of(method)
        asked = list(self._asked(method, self._vector(method, job, how), sets))
        frame = answer(settings.subject, asked, job.rows(), how, job.stage)
        write_table(job.folder / ANSWERS_FILE, frame)

    def _asked(self, method: str, vector: Artifact | None, sets: PromptSets) -> Iterator[Asked]:
        if vector is None:
            for name, texts in sets.items():
                for number, text in enumerate(texts):
                    columns = {"prompts": name, "number": number}
                    yield Asked(f"{name}/{number}", text, None, f"{name}/{number}", columns)
            return
        for direction, name in self.case.asks(vector.directions):
            for multiplier in strengths(vector, self.settings.multipliers(method)):
                steering = steering_of(vector, direction, multiplier, self.settings.rule)
                for number, text in enumerate(sets[name]):
                    columns = {
                        "direction": direction,
                        "prompts": name,
                        "multiplier": multiplier,
                        "number": number,
                    }
                    key = f"{direction}/{name}/{multiplier:g}/{number}"
                    yield Asked(key, text, steering, f"{name}/{number}", columns)

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

    def _agree(self, job: Job) -> None:
        """The judge's verdicts on the answers that were labelled by hand."""
        assert self.case.judge is not None
        labelled = self.case.rules[0].labelled
        verdicts = self.case.judge.verdicts([(one.prompt, one.text) for one in labelled])
        write_atomically(job.folder / VERDICTS_FILE, json.dumps(verdicts).encode())

    def _judged_answers(self, method: str, job: Job) -> pd.DataFrame:
        """Answers, with a column verdict if there is a judge."""
        answers = read_answers(job.source(f"generate.{method}"))
        if self.case.judge is None:
            return answers
        verdicts = read_verdicts(job.source(f"judge.{method}"))
        return answers.assign(verdict=pd.Series(verdicts, dtype=object))

    def _measure(self, method: str, job: Job) -> None:
        settings, case = self.settings, self.case
        sets = read_prompt_sets(job.source("data"))
        untouched = self._judged_answers(UNSTEERED, job)
        described: dict[str, Any] = {"method": method}
        vector, answers = self._vector(method, job), None
        multipliers: tuple[float, ...] = ()
        if vector is not None:
            answers = self._judged_answers(method, job)
            multipliers = strengths(vector, settings.multipliers(method))
            described |= {
                "seed": job.pieces[0].inputs["seed"] if job.pieces else None,
                "layers": " ".join(map(str, vector.layers)),
                "rank": vector.rank,
                "parameters": vector.parameters,
            }
        log, subject = job.rows("divergences"), settings.subject
        surprises = partial(surprises_of, subject)
        rates = measure_answers(case, untouched, answers, multipliers, sets, surprises)
        distances = measure_divergences(
            log, case, subject, sets, untouched, vector, multipliers, settings.rule
        )
        table = pd.concat([rates, distances.drop(columns="multiplier")], axis=1)
        for place, (name, value) in enumerate(described.items()):
            table.insert(place, name, value)
        records = json.dumps(table.to_dict("records"), indent=1, default=float)
        write_atomically(job.folder / MEASURES_FILE, records.encode())

    def _score(self, method: str, job: Job) -> None:
        settings, vector = self.settings, self._vector(method, job)
        steerings: list[tuple[float, Steering | None]] = [(1.0, None)]
        if vector is not None:
            direction = scored_direction(vector, settings.subject)
            steerings = [
                (multiplier, steering_of(vector, direction, multiplier, settings.rule))
                for multiplier in settings.capability_multipliers(method)
                if direction is not None
            ]
        found = []
        for multiplier, steering in steerings:
            frame = capability_scores(
                settings.subject.loaded.model,
                settings.subject.loaded.tokenizer,
                list(settings.tasks),
                steering=steering,
                num_fewshot=settings.tasks,
                limit=settings.choices.capability_limit,
                apply_chat_template=True,
                framing=settings.framing,
                chat=settings.subject.chat,
            )
            found.append({"multiplier": multiplier, "scores": frame.to_dict("records")})
        write_atomically(job.folder / SCORES_FILE, json.dumps(found, default=float).encode())


def strengths(vector: Artifact, multipliers: Sequence[float]) -> tuple[float, ...]:
    """The multipliers that mean something: text has no strength."""
    return (1.0,) if vector.is_text else tuple(multipliers)


def scored_direction(vector: Artifact, subject: Subject) -> Direction | None:
    """The direction that capabilities are scored in, suppression where possible.

    None for what lm-eval's prompts cannot be steered with: text, and edits of a prompt's ends.
    """
    direction: Direction = "suppress" if "suppress" in vector.directions else "elicit"
    if vector.is_text:
        return None
    edits = vector.edits(subject.loaded.model, direction, 1.0)
    return None if any(edit.span != EVERYWHERE for edit in edits) else direction


def read_answers(folder: Path) -> pd.DataFrame:
    """A model's answers: `prompts` (the set), `number`, `prompt` and `text`.

    Those of a steered model have `direction` and `multiplier` too.
    """
    return pd.read_parquet(folder / ANSWERS_FILE)


def read_measures(folder: Path) -> pd.DataFrame:
    """One row per multiplier."""
    return pd.DataFrame(json.loads((folder / MEASURES_FILE).read_bytes()))


def read_verdicts(folder: Path) -> list[Verdict]:
    """The judge's verdicts, in the order of what it was asked."""
    return json.loads((folder / VERDICTS_FILE).read_bytes())


def read_scores(folder: Path) -> dict[float, pd.DataFrame]:
    """The table of `capability_scores` by multiplier."""
    found = json.loads((folder / SCORES_FILE).read_bytes())
    return {entry["multiplier"]: pd.DataFrame(entry["scores"]) for entry in found}
