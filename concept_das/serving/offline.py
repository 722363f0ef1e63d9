"""Answers from vLLM in this process."""

import gc
import itertools
import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from concept_das.errors import InputError
from concept_das.models.loading import default_device, path_of
from concept_das.serving.catalogue import digest_of, engine_arguments
from concept_das.serving.remote import check_served, request_of
from concept_das.steering.artifact import load_vector
from concept_das.steering.entries import Steering
from concept_das.steering.generation import Decoding, Question
from concept_das.steering.hub import DESCRIPTION_FILE
from concept_das.steering.vector import SteeringVector

_NUMBERS = itertools.count()


class Offline:
    """Asks an engine of vLLM's, which is started for the first question and kept.

    An engine serves the vectors that it was started with. It is started again for a new one, and
    with those that lie beside it.

    Args:
        model, dtype, revision, trust_remote_code: see `load_model`.
        beside: a folder; all vectors below it that belong to the same model are served.
    """

    def __init__(
        self,
        model: str,
        dtype: str = "auto",
        revision: str | None = None,
        trust_remote_code: bool = False,
        beside: Path | None = None,
    ) -> None:
        self.model = path_of(model)
        exact = "bfloat16" if default_device() == "cuda" else "float32"
        self.loading = {
            "dtype": exact if dtype == "auto" else dtype,
            "revision": revision,
            "trust_remote_code": trust_remote_code,
            # On a processor, compiling takes minutes and gains little.
            "enforce_eager": default_device() == "cpu",
        }
        self.beside = beside
        self._folder = tempfile.TemporaryDirectory(prefix="concept-das-vectors-")
        self._served: dict[str, Path] = {}
        self._llm: Any = None

    def check(self, rows: Sequence[tuple[Steering, ...]], positions: str) -> None:
        """Make sure that the rows can be steered by vLLM, and that it is installed.

        Raises:
            InputError: if not.
        """
        check_served(rows)
        try:
            import vllm  # noqa: F401
        except ImportError as error:
            raise InputError(
                "the generator vllm needs vLLM in this environment; install it, or give the "
                "address of a server"
            ) from error

    def answers(
        self, questions: Sequence[Question], how: Decoding
    ) -> Iterator[tuple[list[int], list[list[int]]]]:
        """See `Generator`; those that end in the same step of the engine together."""
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        vectors = check_served([question.parts for question in questions])
        names = {key: digest_of(vector) for key, vector in vectors.items()}
        engine = self._engine_for(vectors.values()).llm_engine
        asked: dict[str, int] = {}
        try:
            for i, one in enumerate(questions):
                key = f"answer-{next(_NUMBERS)}"
                request = request_of(one.parts, names, how.positions)
                params = SamplingParams(
                    max_tokens=how.max_new_tokens,
                    temperature=how.temperature,
                    top_k=how.top_k or 0,
                    top_p=1.0 if how.top_p is None else how.top_p,
                    seed=one.seed,
                    extra_args=None if request is None else request.extra_args(),
                    output_kind=RequestOutputKind.FINAL_ONLY,
                )
                engine.add_request(key, {"prompt_token_ids": list(one.prompt.ids)}, params)
                asked[key] = i
            while asked:
                done = [one for one in engine.step() if one.finished]
                if done:
                    indices = [asked.pop(one.request_id) for one in done]
                    yield indices, [list(one.outputs[0].token_ids) for one in done]
        finally:
            engine.abort_request(list(asked))

    def _engine_for(self, vectors: Iterable[SteeringVector]) -> Any:
        """The engine, which serves these vectors."""
        new = {digest_of(vector): vector for vector in vectors}
        if self._llm is None or not new.keys() <= self._served.keys():
            for vector in (*new.values(), *self._vectors_beside(next(iter(new.values()), None))):
                name = digest_of(vector)
                self._served[name] = vector.save(Path(self._folder.name) / name)
            self._stop()
            os.environ.setdefault("VLLM_USE_V2_MODEL_RUNNER", "0")  # the plugin steers the first
            from vllm import LLM

            self._llm = LLM(self.model, **self.loading, **engine_arguments(self._served))
        return self._llm

    def _vectors_beside(self, like: SteeringVector | None) -> Iterator[SteeringVector]:
        if self.beside is None or like is None:
            return
        for path in sorted(self.beside.rglob(DESCRIPTION_FILE)):
            vector = load_vector(path.parent)
            if isinstance(vector, SteeringVector) and vector.model == like.model:
                yield vector

    def _stop(self) -> None:
        if self._llm is None:
            return
        from vllm.distributed.parallel_state import cleanup_dist_env_and_memory

        self._llm = None
        gc.collect()
        cleanup_dist_env_and_memory()
