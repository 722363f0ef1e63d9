"""Answers from an OpenAI-compatible server: vLLM with this project's plugin."""

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from concept_das.errors import InputError, OutsideError
from concept_das.serving.catalogue import digest_of
from concept_das.serving.request import SteeringRequest, only_part
from concept_das.steering.entries import Steering
from concept_das.steering.generation import Decoding, Question
from concept_das.steering.vector import SteeringVector

if TYPE_CHECKING:
    import openai


@dataclass(frozen=True)
class Remote:
    """Asks a server, one request for each prompt, many at the same time.

    Attributes:
        url: its address, as http://localhost:8000/v1.
        concurrency: requests at the same time; the server batches them.
        timeout: seconds for one request.
        max_retries: of one request.
    """

    url: str
    concurrency: int = 128
    timeout: float = 600.0
    max_retries: int = 3

    def check(self, rows: Sequence[tuple[Steering, ...]], positions: str) -> None:
        """Make sure that the server has the vectors; its own are read again each time.

        Raises:
            InputError: if it does not have one, or one cannot be served.
            OutsideError: if it cannot be reached.
        """
        self._names(rows)

    def answers(
        self, questions: Sequence[Question], how: Decoding
    ) -> Iterator[tuple[list[int], list[list[int]]]]:
        """See `Generator`; each answer alone, as soon as it is there.

        Raises:
            InputError: if the server refuses a request.
            OutsideError: if it fails to answer one, after the answers that it gave.
        """
        names = self._names([one.parts for one in questions])
        with self._answering():
            model = self._client.models.list().data[0].id
        failure: BaseException | None = None
        with ThreadPoolExecutor(self.concurrency) as pool:
            asked: dict[Future[list[int]], int] = {}
            try:
                for i, one in enumerate(questions):
                    request = request_of(one.parts, names, how.positions)
                    asked[pool.submit(self._ask, model, one, request, how)] = i
                for future in as_completed(asked):
                    if future.cancelled():
                        continue
                    if (error := future.exception()) is None:
                        yield [asked[future]], [future.result()]
                    elif failure is None:
                        failure = error
                        _cancel(asked)
            finally:
                _cancel(asked)
        if failure is not None:
            raise failure

    @cached_property
    def _client(self) -> "openai.OpenAI":
        import openai

        return openai.OpenAI(
            base_url=self.url,
            api_key=os.environ.get("OPENAI_API_KEY", "none"),
            timeout=self.timeout,
            max_retries=self.max_retries,
        )

    def _ask(
        self, model: str, question: Question, request: SteeringRequest | None, how: Decoding
    ) -> list[int]:
        """The token ids of an answer."""
        with self._answering():
            completion = self._client.completions.create(
                model=model,
                prompt=list(question.prompt.ids),
                max_tokens=how.max_new_tokens,
                temperature=how.temperature,
                top_p=1.0 if how.top_p is None else how.top_p,
                seed=question.seed,
                # What the server would take from the model's own defaults is said outright.
                extra_body={
                    "top_k": how.top_k or 0,
                    "min_p": 0.0,
                    "repetition_penalty": 1.0,
                    "return_token_ids": True,
                    **({} if request is None else {"vllm_xargs": request.xargs()}),
                },
            )
        ids: list[int] | None = getattr(completion.choices[0], "token_ids", None)
        if ids is None:
            raise InputError(
                f"{self.url} gives no token ids; start a server of vLLM with `concept-das serve`"
            )
        return ids

    def _names(self, rows: Sequence[tuple[Steering, ...]]) -> dict[int, str]:
        """The server's names of the vectors, by their `id`."""
        vectors = check_served(rows)
        served = self._served() if vectors else {}
        names = {}
        for key, vector in vectors.items():
            digest = digest_of(vector)
            if digest not in served:
                known = ", ".join(served.values()) or "none"
                raise InputError(
                    f"{self.url} does not serve the vector of {vector.method} for "
                    f"{vector.concept!r} (it serves {known}); start it with the vector's folder, "
                    "`concept-das serve --vector NAME=FOLDER`, and run again"
                )
            names[key] = served[digest]
        return names

    def _served(self) -> dict[str, str]:
        """The server's names of its vectors, by the hash of their edits."""
        with self._answering():
            listed = self._client.get("/vectors", cast_to=dict[str, Any])
        return {one["sha256"]: one["name"] for one in listed["data"]}

    @contextmanager
    def _answering(self) -> Iterator[None]:
        """Errors of the client as sentences."""
        try:
            import openai
        except ImportError as error:
            raise InputError(
                "asking a server needs the openai package; pip install 'concept-das[judge]'"
            ) from error
        try:
            yield
        except openai.APIConnectionError as error:  # time-outs too
            raise OutsideError(
                f"{self.url} cannot be reached ({error}); start the server with `concept-das "
                "serve` and run again, finished answers are kept"
            ) from error
        except openai.APIStatusError as error:  # left after the client's retries
            if error.status_code in (408, 409, 429) or error.status_code >= 500:
                raise OutsideError(
                    f"{self.url} fails ({error.message}); run again when it works, finished "
                    "answers are kept"
                ) from error
            raise InputError(
                f"{self.url} refuses a request ({error.message}); start a server with `concept-das "
                "serve`"
            ) from error


def check_served(rows: Sequence[tuple[Steering, ...]]) -> dict[int, SteeringVector]:
    """Make sure that vLLM can steer rows.

    Returns:
        The vectors that it is to apply, by their `id`; text is in the prompt.

    Raises:
        InputError: if it cannot.
    """
    vectors = {}
    for row in rows:
        if parts := [part for part in row if not part.vector.is_text]:
            steering = only_part(parts)
            steering.check()
            if not isinstance(steering.vector, SteeringVector):
                raise InputError(
                    f"vLLM cannot apply what {steering.vector.method} learns, which is no vector; "
                    "answer with generator hf"
                )
            vectors[id(steering.vector)] = steering.vector
    return vectors


def request_of(
    parts: tuple[Steering, ...], names: dict[int, str], positions: str
) -> SteeringRequest | None:
    """The steering of a request; None for the untouched model.

    Args:
        names: of vectors that are served, by their `id`.
    """
    if not parts:
        return None
    (steering,) = parts
    return SteeringRequest.for_steering(steering, names[id(steering.vector)], positions)


def _cancel(futures: "dict[Future[list[int]], int]") -> None:
    """Leave out what has not been asked yet."""
    for future in futures:
        future.cancel()
