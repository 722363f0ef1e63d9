"""The judge of a benchmark, as the command line names it."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from benchmarks.judges.axbench_questions import Questions, read_questions
from benchmarks.judges.client import Endpoint
from benchmarks.judges.local import LocalModel
from benchmarks.judges.ratings import Kind
from benchmarks.steps import made_by_model
from concept_das.cli.options import ModelOptions
from concept_das.errors import InputError
from concept_das.runs.files import sources_of

OWN_QUESTIONS, AXBENCH_QUESTIONS = "own", "axbench"
"""Whose questions a preset names: this project's, or AxBench's, of a checkout `axbench` here."""

# Tokens of an answer to AxBench's questions, as in the release.
_LONGER = 500


@dataclass(frozen=True)
class JudgeOptions:
    """Who rates the answers.

    Args:
        judge: api (an OpenAI-compatible endpoint), local (a chat model on this machine) or, for
            AxBench, proxy (a classifier and the unsteered model's likelihoods, which needs no other
            model); the benchmark's own if not given.
        judge_model: the endpoint's name of the model, or a hub id or local folder.
        judge_questions: the questions that a language model is asked about AxBench's answers: a
            checkout of stanfordnlp/axbench, or its prompt_templates.py, for AxBench's own; or own,
            for this project's wording. If not given the preset's, which for the paper's models is
            a checkout `axbench` in the current folder.
        judge_url: address of the endpoint; the environment's OPENAI_BASE_URL, or else OpenAI's.
        judge_cache: sqlite file of the endpoint's answers, which a rerun does not pay for again.
        judge_concurrency: requests at the same time.
        judge_per_minute: most requests per minute; no limit if not given.
    """

    judge: Kind | None = None
    judge_model: str | None = None
    judge_url: str | None = None
    judge_cache: Path = Path("runs/judge-answers.sqlite")
    judge_concurrency: int = 16
    judge_per_minute: float | None = None
    judge_questions: str | None = None

    def __post_init__(self) -> None:
        if self.judge == "local" and self.judge_model is None:
            raise InputError("name the chat model that judges with --judge-model")

    @property
    def together(self) -> int:
        """Answers that are rated in one call, which a killed process loses.

        An endpoint keeps each answer in its cache, and more of them keep it busy.
        """
        return 4000 if self.judge == "api" else 64

    @property
    def description(self) -> dict[str, Any]:
        """All that the answers of an endpoint or a local model depend on, as JSON can hold it."""
        if self.judge == "api":
            return {"kind": "api", "model": self.endpoint.model, "url": self.endpoint.url}
        return {"kind": self.judge, "model": self.judge_model}

    @property
    def made_by(self) -> dict[str, Any]:
        """`Stage.made_by` of the stages that ask: the questions' wording, and a local model."""
        sources = sources_of("benchmarks.judges.questions", "benchmarks.judges.ratings")
        own = made_by_model(self.judge_model) if self.judge == "local" and self.judge_model else {}
        return {**own, "the judge's questions": sources}

    @cached_property
    def axbench(self) -> Questions | None:
        """AxBench's own questions; None for this project's wording.

        Raises:
            InputError: if they are asked for and no file is named, or it cannot be used.
        """
        if self.judge_questions in (None, OWN_QUESTIONS):
            return None
        if self.judge_questions == AXBENCH_QUESTIONS and not Path(AXBENCH_QUESTIONS).exists():
            raise InputError(
                "the preset's judge asks AxBench's own questions, which this project does not "
                "hold: clone stanfordnlp/axbench into the current folder, give --judge-questions "
                "FOLDER with a checkout elsewhere (or its axbench/evaluators/prompt_templates.py), "
                "or --judge-questions own for this project's wording, whose scores are not "
                "comparable with published ones"
            )
        return read_questions(Path(self.judge_questions))

    @cached_property
    def endpoint(self) -> Endpoint:
        """The endpoint that is asked."""
        return Endpoint(
            cache=self.judge_cache,
            model=self.judge_model or Endpoint.model,
            base_url=self.judge_url,
            concurrency=self.judge_concurrency,
            requests_per_minute=self.judge_per_minute,
            max_tokens=_LONGER if self.axbench is not None else Endpoint.max_tokens,
        )

    @cached_property
    def model(self) -> Endpoint | LocalModel:
        """The language model that is asked."""
        if self.judge == "api":
            return self.endpoint
        return LocalModel(ModelOptions(model=self.judge_model).load())
