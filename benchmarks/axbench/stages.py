"""AxBench as stages: data, train, factors, generate, judge, select, report.

`train`, `generate` and `judge` are one stage for each method, such as `train.cdas`, so that a
method can be added, or one's hyper-parameters changed, without anything else being done again. The
baseline `unsteered` is asked for the concept where it is to be suppressed.
"""

import itertools
import json
from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.axbench.data import (
    AxBenchData,
    ConceptTexts,
    read_detection,
    read_rows,
    read_texts,
    write_texts,
)
from benchmarks.axbench.detection import detection_scores, detectors
from benchmarks.axbench.judging import Judging
from benchmarks.axbench.neutral import Neutral, neutral_quadruples
from benchmarks.axbench.presets import Preset
from benchmarks.axbench.report import write_report
from benchmarks.axbench.scores import (
    RATINGS,
    detection_auroc,
    reported,
    select_multipliers,
    with_scores,
)
from benchmarks.judges.client import Endpoint
from benchmarks.judges.proxy import ProxyJudge
from benchmarks.judges.ratings import Item
from benchmarks.steps import (
    UNSTEERED,
    Answering,
    Asked,
    Subject,
    answer,
    train_method,
    trained_vector,
)
from concept_das.data.batches import batches
from concept_das.data.concept_prompts import TOPIC_PROMPT, concept_input
from concept_das.data.files import write_table
from concept_das.data.quadruples import Quadruple
from concept_das.experiments.making import make_quadruples
from concept_das.methods.settings import TrainingConfig
from concept_das.runs.files import sources_of, write_atomically
from concept_das.runs.stages import Job, Piece, Stage
from concept_das.steering.artifact import Artifact
from concept_das.steering.context import Steering
from concept_das.training.options import EngineOptions
from concept_das.training.tracking import NoTracker, PrefixedTracker, Tracker
from concept_das.words import DIRECTIONS, Direction

# Instructions that the proxy judge may compare a concept's own with.
_POOL = 64

# What a report is made by, beside this package.
_REPORTING = ("benchmarks.judges.ratings", "concept_das.reports", "concept_das.evaluation")

_ANSWERS, _RATINGS, _SCORED, _SELECTED = (
    "answers.parquet",
    "ratings.parquet",
    "scored.parquet",
    "selected.csv",
)


@dataclass(frozen=True)
class AxBench:
    """A run of the benchmark.

    Attributes:
        preset: methods, hyper-parameters, strengths, sizes.
        data: where texts come from.
        subject: the model that is steered.
        judging: who rates.
        answering: how prompts are answered.
        engine: see `concept_das.train_vectors`.
        neutral: who writes neutral responses where the data have none.
        endpoint: the API that does, with `neutral` api.
        seed: of training, the choice of rows, and the sampling.
        differences: what keeps the scores from standing beside published ones, in words.
        apart: methods whose settings are not those of the published scores.
        directions: those that answers are asked for in.
        tracker: gets training curves and tables.
    """

    preset: Preset
    data: AxBenchData
    subject: Subject
    judging: Judging
    answering: Answering
    engine: EngineOptions
    neutral: Neutral = "model"
    endpoint: Endpoint | None = None
    seed: int = 42
    differences: Sequence[str] = ()
    apart: Sequence[str] = ()
    directions: tuple[Direction, ...] = DIRECTIONS
    tracker: Tracker = field(default_factory=NoTracker)

    def pieces(self, concept_ids: Sequence[int]) -> list[Piece]:
        """One for each concept."""
        return [
            Piece(f"concept-{number}", {"concept_id": number, "sha256": dict(self.data.sha256)})
            for number in concept_ids
        ]

    def stages(self) -> list[Stage]:
        """All stages, in their order."""
        preset, methods = self.preset, self.preset.methods
        every = (UNSTEERED, *methods)
        model = self.subject.description
        computed = self.subject.made_by
        judge = self.judging.description
        rated = self.judging.made_by
        trained = {method: (f"train.{method}",) for method in methods}
        stages = [Stage("data", self._make_data, (), self._data_options(), self._data_made_by())]
        for method in methods:
            config = self._config(method).record()
            options = {"config": config, "layer": preset.layer, "model": model}
            run = partial(self._train, method)
            stages.append(Stage(f"train.{method}", run, ("data",), options, computed))
        needs = ("data", *itertools.chain(*trained.values()))
        stages.append(Stage("factors", self._measure_factors, needs, made_by=computed))
        for method in every:
            multipliers = list(preset.strengths(method))
            answering = self._answering(method).description
            options = {"answering": answering, "multipliers": multipliers, "model": model}
            if self.directions != DIRECTIONS:
                options["directions"] = list(self.directions)
            run, needs = partial(self._generate, method), ("data", *trained.get(method, ()))
            stages.append(Stage(f"generate.{method}", run, needs, options, computed))
        calibrated: tuple[str, ...] = ()
        if self.judging.kind == "proxy":
            options = {"judge": judge, "answering": self.judging.answering.description}
            calibrate = self.judging.calibrate
            stages.append(Stage("calibrate", calibrate, (), options, rated, gathers=True))
            calibrated = ("calibrate",)
        for method in every:
            needs = ("data", f"generate.{method}", *calibrated)
            run = partial(self._judge, method)
            stages.append(Stage(f"judge.{method}", run, needs, {"judge": judge}, rated))
        options = {"instructions": preset.instructions_per_concept}
        needs = tuple(f"judge.{method}" for method in every)
        rules = {"the scores' rules": sources_of("benchmarks.axbench.scores")}
        stages.append(Stage("select", self._select, needs, options, rules, gathers=True))
        options = {
            **{"cell": preset.cell, "layer": preset.layer, "name": preset.name},
            **{"differences": list(self.differences), "apart": list(self.apart)},
        }
        if answered := self.answering.notes(methods):
            options["answered"] = answered
        rules = {"the report's rules": sources_of("benchmarks.axbench", *_REPORTING)}
        needs = ("select", "factors")
        stages.append(Stage("report", self._report, needs, options, rules, gathers=True))
        return stages

    def _data_made_by(self) -> dict[str, Any]:
        wording = sources_of("benchmarks.axbench.neutral", "concept_das.data.concept_prompts")
        model = self.subject.made_by if self.neutral == "model" else {}
        return {**model, "the request for neutral responses": wording}

    def _data_options(self) -> dict[str, Any]:
        return {
            "neutral": self.neutral,
            "neutral_model": self.endpoint.model if self.endpoint else None,
            "tokens": self.preset.response_tokens,
            "rows": self.preset.rows,
            "instructions": self.preset.instructions_per_concept,
            "seed": self.seed,
            "model": self.subject.description,
        }

    def _answering(self, method: str) -> Answering:
        """The way a method's prompts are answered: its source's, where the preset names one."""
        grid = self.preset.grids.get(method)
        answering = self.answering.of_method(method)
        return replace(answering, **grid.decoding) if grid else answering

    def _config(self, method: str) -> TrainingConfig:
        return replace(self.preset.configs[method], seed=self.seed)

    def _make_data(self, job: Job) -> None:
        """Training rows, instructions to be asked, and what the judge's probe is trained on."""
        number = _concept_id(job)
        known = self.data.concept(number)
        texts = ConceptTexts(
            concept=known.concept,
            instructions=self.data.instructions(number, self.preset.instructions_per_concept),
            pool=self.data.instructions(number, _POOL),
            with_concept=known.outputs,
            without_concept=self.data.negatives(number),
        )
        rows = self.data.contrastive(number)
        if rows is None:
            rows = self._completed(job, number)
        write_texts(job.folder, texts, self._some(rows), self.data.detection(number))

    def _completed(self, job: Job, number: int) -> list[Quadruple]:
        """Rows with neutral responses that the model or an API model writes."""
        source = self.data.concept(number)
        chosen = self._some(list(zip(source.instructions, source.outputs, strict=True)))
        instructions, outputs = (list(column) for column in zip(*chosen, strict=True))
        if self.neutral == "api":
            assert self.endpoint is not None
            some = replace(source, instructions=instructions, outputs=outputs)
            return neutral_quadruples(self.endpoint, some, number)
        return make_quadruples(
            self.subject.loaded,
            self.subject.chat,
            source.concept,
            instructions,
            template=TOPIC_PROMPT,
            max_new_tokens=self.preset.response_tokens,
            concept_id=number,
            genre=source.genre,
            concept_outputs=outputs,
            partial=job.scratch / "answers.json",
        )

    def _some(self, rows: list[Any]) -> list[Any]:
        """As many rows as the preset takes, in their order."""
        limit = self.preset.rows
        if limit is None or limit >= len(rows):
            return rows
        chosen = np.random.default_rng(self.seed).permutation(len(rows))[:limit]
        return [rows[i] for i in sorted(chosen.tolist())]

    def _train(self, method: str, job: Job) -> None:
        rows = read_rows(job.source("data"))
        tracker = PrefixedTracker(self.tracker, f"{method}/{job.pieces[0].key}")
        config = self._config(method)
        train_method(job, self.subject, rows, self.preset.layer, config, self.engine, tracker)

    def _vectors(self, job: Job, how: Answering | None = None) -> dict[str, Artifact]:
        """The trained methods that a job needs; see `trained_vector`."""
        return {
            method: trained_vector(job.source(f"train.{method}"), self.subject, how)
            for method in self.preset.methods
            if f"train.{method}" in job.sources
        }

    def _measure_factors(self, job: Job) -> None:
        """The factors of every direction, and the detection of the concept by it."""
        vectors = detectors(self._vectors(job))
        factors = [
            {
                "method": method,
                "operation": vector.operation,
                "negative_factor": vector.negative_factor.tolist(),
                "positive_factor": vector.positive_factor.tolist(),
            }
            for method, vector in vectors.items()
        ]
        write_atomically(job.folder / "factors.json", json.dumps(factors, indent=1).encode())
        texts = read_detection(job.source("data"))
        if texts is None or not vectors:
            return
        scores = detection_scores(
            self.subject, texts, vectors, max_tokens=self.preset.response_tokens
        )
        scores.insert(1, "concept_id", _concept_id(job))
        write_table(job.folder / "detection.parquet", scores)

    def _generate(self, method: str, job: Job) -> None:
        """Answers to the instructions, and to concept prompts where the concept is suppressed."""
        texts = read_texts(job.source("data"))
        how = self._answering(method)
        vector = self._vectors(job, how).get(method)
        asked = list(self._asked(method, vector, texts, _concept_id(job)))
        title = f"{method}, {job.pieces[0].key}"
        table = answer(self.subject, asked, job.rows(), how, title)
        write_table(job.folder / _ANSWERS, table)

    def _asked(
        self, method: str, vector: Artifact | None, texts: ConceptTexts, number: int
    ) -> Iterator[Asked]:
        able = DIRECTIONS if vector is None else vector.directions
        directions = [one for one in able if one in self.directions]
        has_strength = vector is not None and not vector.is_text
        strengths = self.preset.strengths(method) if has_strength else (1.0,)
        for direction, multiplier in itertools.product(directions, strengths):
            steering = None if vector is None else Steering(vector, direction, multiplier)
            for place, instruction in enumerate(texts.instructions):
                yield Asked(
                    key=f"{direction}/{multiplier}/{place}",
                    prompt=_prompt(direction, instruction, texts.concept),
                    steering=steering,
                    noise=f"{number}/{direction}/{place}",
                    columns={
                        "method": method,
                        "concept_id": number,
                        "concept_text": texts.concept,
                        "direction": direction,
                        "multiplier": multiplier,
                        "input_id": place,
                        "instruction_text": instruction,
                    },
                )

    def _judge(self, method: str, job: Job) -> None:
        """Three ratings of every answer."""
        answers = pd.read_parquet(job.source(f"generate.{method}") / _ANSWERS)
        calibration = job.source("calibrate") if "calibrate" in job.sources else None
        judge = self.judging.of_concept(job.source("data"), calibration)
        keys = [str(i) for i in range(len(answers))]
        with job.rows() as log:
            todo = [int(key) for key in log.missing(keys)]
            for chosen in batches(todo, self.judging.options.together):
                items = [
                    Item(row["instruction_text"], row["text"], row["concept_text"])
                    for row in answers.iloc[list(chosen)].to_dict("records")
                ]
                for i, rating in zip(chosen, judge.rate(items), strict=True):
                    named = zip(RATINGS, astuple(rating), strict=True)
                    log.append(str(i), dict(named))
            ratings = log.frame(keys).astype(float)
        table = pd.concat([answers, ratings], axis=1)
        table["judge"], table["judge_kind"] = judge.name, judge.kind
        write_table(job.folder / _RATINGS, table)
        if isinstance(judge, ProxyJudge):
            described = json.dumps(judge.description(), indent=1, ensure_ascii=False)
            write_atomically(job.folder / "judge.json", described.encode())

    def _select(self, job: Job) -> None:
        """Scores, and the multipliers of each method and concept by either half of the answers."""
        tables = [
            pd.read_parquet(folder / _RATINGS)
            for folders in job.sources.values()
            for folder in folders
        ]
        scored = with_scores(pd.concat(tables, ignore_index=True))
        grids = {method: grid.multipliers for method, grid in self.preset.grids.items()}
        published = [
            multiplier in grids.get(method, (1.0,))
            for method, multiplier in zip(scored["method"], scored["multiplier"], strict=True)
        ]
        instructions = self.preset.instructions_per_concept
        selected = select_multipliers(scored[published], instructions)
        reported(scored, selected, instructions)  # complains here already, if answers are missing
        write_table(job.folder / _SCORED, scored)
        write_table(job.folder / _SELECTED, selected)

    def _report(self, job: Job) -> None:
        scored = pd.read_parquet(job.source("select") / _SCORED)
        selected = pd.read_csv(job.source("select") / _SELECTED)
        found = [folder / "detection.parquet" for folder in job.sources["factors"]]
        latents = [pd.read_parquet(path) for path in found if path.exists()]
        write_report(
            job.folder,
            scored,
            selected,
            self.preset.instructions_per_concept,
            detection=detection_auroc(pd.concat(latents)) if latents else None,
            cell=self.preset.cell,
            differences=self.differences,
            apart=self.apart,
            title=f"AxBench, {self.subject.name}, layer {self.preset.layer}",
            notes=self._notes(scored),
        )

    def _notes(self, scored: pd.DataFrame) -> list[str]:
        """Sentences on how the numbers came about."""
        count = scored["concept_id"].nunique()
        others = {
            f"{method} {self._answering(method).in_words}"
            for method, grid in self.preset.grids.items()
            if grid.decoding
        }
        return [
            f"{count} concepts, {self.preset.instructions_per_concept} AlpacaEval instructions "
            f"each, answers of {self.answering.new_tokens} new tokens, {self.answering.in_words}"
            f"{''.join(f' ({other})' for other in sorted(others))}; seed {self.seed}.",
            "Methods and multipliers share their sampling noise, prompt by prompt.",
            *self.answering.notes(self.preset.methods),
            "To be suppressed, a concept is asked for in the prompt, as in the training data; the "
            "answer is still rated against the bare instruction."
            if "suppress" in self.directions
            else "Suppression was left out.",
        ]


def _concept_id(job: Job) -> int:
    return job.pieces[0].inputs["concept_id"]


def _prompt(direction: Direction, instruction: str, concept: str) -> str:
    if direction == "elicit":
        return instruction
    return concept_input(instruction, concept, TOPIC_PROMPT)
