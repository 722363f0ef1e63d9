"""Who rates the answers: an endpoint, a local chat model, or the offline proxy."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.axbench.data import read_texts
from benchmarks.judges.options import JudgeOptions
from benchmarks.judges.proxy import ConceptProbe, Fluency, ProxyJudge, Relatedness, fit_probe
from benchmarks.judges.questions import ModelJudge
from benchmarks.judges.ratings import Kind, Rater
from benchmarks.steps import Answering, Asked, Subject, answer
from concept_das.data.shipped import shipped_instructions
from concept_das.runs.files import write_atomically
from concept_das.runs.stages import Job

FLUENCY_FILE = "fluency.json"

# Unsteered answers that set the proxy's scale of fluency.
_CALIBRATING = 48

# The proxy ranks an instruction among this many others; AxBench's judge needs none of it.
_OTHERS = 4
_RELATED_TOKENS = 24


class Judging:
    """The judge of a run.

    Args:
        options: their `judge` is set.
        subject: the model that is steered; the proxy rates by its unsteered likelihoods.
    """

    def __init__(self, options: JudgeOptions, subject: Subject, answering: Answering) -> None:
        self.options = options
        self.subject = subject
        self.answering = answering
        self._probes: dict[Path, ConceptProbe] = {}

    @property
    def kind(self) -> Kind:
        """The kind of judge."""
        assert self.options.judge is not None
        return self.options.judge

    @property
    def description(self) -> dict[str, Any]:
        """The settings that ratings depend on, as JSON can hold them."""
        if self.kind != "proxy":
            return self.options.description
        own = {"others": _OTHERS, "tokens": _RELATED_TOKENS}
        return {"kind": "proxy", **own, **self.subject.description}

    def calibrate(self, job: Job) -> None:
        """For the proxy: how fluent the unsteered model's own answers are, as `fluency.json`."""
        asked = [
            Asked(str(i), text, None, f"calibrate/{i}", {})
            for i, text in enumerate(shipped_instructions(_CALIBRATING, self.answering.seed))
        ]
        answers = answer(self.subject, asked, job.rows(), self.answering, "calibrate")
        fluency = Fluency.calibrated(
            self.subject.loaded.model,
            self.subject.chat,
            answers["text"].tolist(),
            max_tokens=self.answering.new_tokens,
        )
        write_atomically(job.folder / FLUENCY_FILE, json.dumps(asdict(fluency)).encode())

    def of_concept(self, texts: Path, calibration: Path | None) -> Rater:
        """The judge of one concept's answers.

        Args:
            texts: folder of the concept's data stage.
            calibration: folder that `calibrate` wrote; the proxy's.
        """
        if self.kind != "proxy":
            return ModelJudge(self.options.model)
        assert calibration is not None
        own = read_texts(texts)
        if texts not in self._probes:
            self._probes[texts] = fit_probe(own.with_concept, own.without_concept)
        return ProxyJudge(
            loaded=self.subject.loaded,
            concept=own.concept,
            probe=self._probes[texts],
            relatedness=Relatedness(tuple(own.pool), others=_OTHERS, max_tokens=_RELATED_TOKENS),
            fluency=Fluency(**json.loads((calibration / FLUENCY_FILE).read_text())),
        )
