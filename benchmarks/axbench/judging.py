"""Who rates the answers: an endpoint, a local chat model, or the offline proxy."""

import json
import logging
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.axbench.data import read_detection, read_texts
from benchmarks.judges.axbench_questions import digest
from benchmarks.judges.options import JudgeOptions
from benchmarks.judges.proxy import ConceptProbe, Fluency, ProxyJudge, Relatedness, fit_probe
from benchmarks.judges.questions import ModelJudge, own_digest
from benchmarks.judges.ratings import Kind, Rater
from benchmarks.steps import Answering, Asked, Subject, answer
from concept_das.data.shipped import shipped_instructions
from concept_das.runs.files import sources_of, write_atomically
from concept_das.runs.stages import Job

log = logging.getLogger(__name__)

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
            asked = self.options.axbench
            wording = own_digest() if asked is None else digest(asked)
            return {**self.options.description, "questions": wording}
        own = {"others": _OTHERS, "tokens": _RELATED_TOKENS, "probe": "held-out texts"}
        return {"kind": "proxy", **own, **self.subject.description}

    @property
    def made_by(self) -> dict[str, Any]:
        """`Stage.made_by` of the stages that rate."""
        if self.kind != "proxy":
            return self.options.made_by
        return {**self.subject.made_by, "the proxy's rules": sources_of("benchmarks.judges.proxy")}

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
            return ModelJudge(self.options.model, self.options.axbench)
        assert calibration is not None
        own = read_texts(texts)
        if texts not in self._probes:
            self._probes[texts] = probe_of(texts)
        return ProxyJudge(
            loaded=self.subject.loaded,
            concept=own.concept,
            probe=self._probes[texts],
            relatedness=Relatedness(tuple(own.pool), others=_OTHERS, max_tokens=_RELATED_TOKENS),
            fluency=Fluency(**json.loads((calibration / FLUENCY_FILE).read_text())),
        )


def probe_of(texts: Path) -> ConceptProbe:
    """A probe of the texts for detection, which no method is trained on.

    Where the data have none it is of the training file's outputs, which the methods train on too.
    """
    held_out = read_detection(texts)
    if held_out is None:
        own = read_texts(texts)
        log.warning(
            "there are no texts for detection of %r, so the proxy's probe is trained on the "
            "outputs that the methods train on",
            own.concept,
        )
        return fit_probe(own.with_concept, own.without_concept)
    of_label = held_out.groupby("label")["response"].apply(list)
    return fit_probe(of_label["positive"], of_label["negative"])
