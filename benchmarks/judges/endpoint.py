"""A model behind an OpenAI-compatible endpoint as judge: `gpt-4o-mini`, or one served by yourself.

The `openai` client does the HTTP, and its own retries: on 408, 409, 429, 5xx, time-outs and lost
connections, after `Retry-After` where the server says it, else after 0.5 s doubling up to 8 s, less
up to a quarter by chance. Each answer is on disk as soon as it is there.
"""

import logging
import os
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tqdm import tqdm

from benchmarks.judges.cache import Answer, AnswerCache, canonical_request, key_of
from benchmarks.judges.costs import (
    EXPECTED_COMPLETION_TOKENS,
    PRICES,
    Estimate,
    Price,
    Usage,
    approximate_tokens,
)
from benchmarks.judges.pace import Pace
from benchmarks.judges.questions import parse_rating, question_text
from benchmarks.judges.ratings import EMPTY_RESPONSE, QUESTIONS, Item, Question, Rating
from concept_das.errors import InputError

if TYPE_CHECKING:
    import openai

OPENAI_URL = "https://api.openai.com/v1"

_FAILURES_IN_A_ROW = 3
"""Requests that fail for good, with no answer between them, before the endpoint counts as down."""

_BROKEN_ANSWERS = 3
"""How often one request may be answered with something that is not a completion."""

log = logging.getLogger(__name__)


class EndpointError(RuntimeError):
    """The endpoint is down. Finished answers are in the cache, so a rerun goes on from there."""


@dataclass(frozen=True)
class EndpointJudge:
    """Asks an endpoint the three questions about each response, one request per question.

    A malformed answer (no rating, one out of range, cut off, empty) is asked again with a
    reminder, and is missing after the last attempt. So is one that the endpoint fails to give,
    which is not cached. A response without text is rated 0 without asking.

    Attributes:
        cache: sqlite file of answers; may be shared by judges, runs and processes.
        model: as the endpoint names it.
        base_url: the environment's OPENAI_BASE_URL if None, else OpenAI's.
        api_key: the environment's OPENAI_API_KEY if None; a local server takes any word.
        max_tokens: length of an answer.
        timeout: seconds for one request, after which it is tried again.
        concurrency: requests at the same time.
        requests_per_minute: also counts what is tried again; None for no limit.
        max_retries: of one request, by the client.
        attempts: how often a question is asked until its answer can be read.
        price: of the model; from `costs.PRICES` if None.
        usage: what this judge has spent so far.
    """

    cache: Path
    model: str = "gpt-4o-mini"
    base_url: str | None = None
    api_key: str | None = field(default=None, repr=False)
    temperature: float = 0.0
    max_tokens: int = 300
    timeout: float = 60.0
    concurrency: int = 16
    requests_per_minute: float | None = None
    max_retries: int = 8
    attempts: int = 3
    price: Price | None = None
    usage: Usage = field(default_factory=Usage, compare=False)

    kind: Literal["api"] = field(default="api", init=False)

    def __post_init__(self) -> None:
        for name in ("concurrency", "attempts", "max_tokens"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} of a judge must be at least 1, not {getattr(self, name)}")
        if self.requests_per_minute is not None and self.requests_per_minute <= 0:
            raise InputError("requests_per_minute must be above 0; leave it out for no limit")

    @property
    def name(self) -> str:
        """For tables."""
        return f"api {self.model}"

    def estimate(self, items: Sequence[Item]) -> Estimate:
        """What `rate` will ask and cost; needs no key and no connection."""
        texts = list(_questions(items))
        with AnswerCache(self.cache) as cache:
            todo = [t for t in texts if cache.get(key_of(self._canonical(t))) is None]
        return Estimate(
            requests=len(todo),
            cached=len(texts) - len(todo),
            prompt_tokens=sum(map(approximate_tokens, todo)),
            completion_tokens=len(todo) * min(EXPECTED_COMPLETION_TOKENS, self.max_tokens),
            completion_limit=len(todo) * self.max_tokens,
            price=self._price(),
        )

    def rate(self, items: Sequence[Item]) -> list[Rating]:
        """One rating per item, in order; equal questions are asked once.

        Raises:
            InputError: if `openai` is not installed, there is no key, or the endpoint refuses
                the requests (wrong key, unknown model).
            EndpointError: if the endpoint is down.
        """
        questions = _questions(items)
        log.info("%s: %s", self.name, self.estimate(items))
        values: dict[str, int | None] = {}
        with (
            _connected(self) as run,
            tqdm(total=len(questions), desc=self.name, unit="question") as bar,
            ThreadPoolExecutor(self.concurrency) as pool,
        ):
            futures = {pool.submit(run.ask, *asked): text for text, asked in questions.items()}
            try:
                for future in as_completed(futures):
                    values[futures[future]] = future.result()
                    bar.set_postfix_str(self.usage.summary(self._price()), refresh=False)
                    bar.update()
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        missing = sum(value is None for value in values.values())
        if missing:
            log.warning("%s: %d of %d ratings are missing", self.name, missing, len(values))
        return [
            Rating(*(values[question_text(question, item)] for question in QUESTIONS))
            if item.response.strip()
            else EMPTY_RESPONSE
            for item in items
        ]

    def _url(self) -> str:
        return (self.base_url or os.environ.get("OPENAI_BASE_URL") or OPENAI_URL).rstrip("/")

    def _price(self) -> Price | None:
        return self.price or PRICES.get(self.model)

    def _request(self, text: str) -> dict[str, Any]:
        return {
            "model": self.model,
            "messages": [{"role": "user", "content": text}],
            "temperature": self.temperature,
            "max_tokens": self.max_tokens,
        }

    def _canonical(self, text: str) -> str:
        return canonical_request(self._url(), self._request(text))


def _questions(items: Sequence[Item]) -> dict[str, tuple[Question, Item]]:
    """Every different question about the responses that have text, by its wording."""
    return {
        question_text(question, item): (question, item)
        for item in items
        if item.response.strip()
        for question in QUESTIONS
    }


@contextmanager
def _connected(judge: EndpointJudge) -> Iterator["_Run"]:
    try:
        import openai
    except ImportError as error:
        raise InputError(
            "judging by an endpoint needs the openai package; pip install 'concept-das[judge]'"
        ) from error
    pace = Pace(judge.requests_per_minute)
    # The hook is called before each attempt, the client's own retries included.
    http = openai.DefaultHttpxClient(
        timeout=judge.timeout, event_hooks={"request": [lambda _request: pace.wait()]}
    )
    with http, AnswerCache(judge.cache) as cache:
        try:
            client = openai.OpenAI(
                api_key=judge.api_key,
                base_url=judge._url(),
                max_retries=judge.max_retries,
                timeout=judge.timeout,
                http_client=http,
            )
        except openai.OpenAIError as error:
            raise InputError(
                f"no API key for {judge._url()}: set OPENAI_API_KEY or pass api_key (any word for "
                "a server that wants none)"
            ) from error
        yield _Run(judge, client, cache)


class _Run:
    """One call of `rate`: its connection, and whether the endpoint is still there."""

    def __init__(self, judge: EndpointJudge, client: "openai.OpenAI", cache: AnswerCache) -> None:
        self._judge = judge
        self._client = client
        self._cache = cache
        self._lock = threading.Lock()
        self._failures = 0
        self._stopped = False

    def ask(self, question: Question, item: Item) -> int | None:
        """The rating, or None if no attempt gave one."""
        if self._stopped:  # another thread's error is on its way to the caller
            return None
        try:
            return self._ask(question, item)
        except BaseException:
            self._stopped = True
            raise

    def _ask(self, question: Question, item: Item) -> int | None:
        for reminders in range(self._judge.attempts):
            answer = self._answer(question_text(question, item, reminders=reminders))
            if answer is None:
                return None
            rating = parse_rating(answer.text) if answer.complete else None
            if rating is not None:
                return rating
        log.warning("no rating for %s in %d attempts", question, self._judge.attempts)
        return None

    def _answer(self, text: str) -> Answer | None:
        """From the cache, else from the endpoint; None if that fails."""
        canonical = self._judge._canonical(text)
        known = self._cache.get(key_of(canonical))
        if known is not None:
            return known
        try:
            answer = self._fetch(self._judge._request(text))
        except _RequestError as error:
            self._count_failure(error)
            return None
        with self._lock:
            self._failures = 0
        self._judge.usage.add(answer.prompt_tokens, answer.completion_tokens)
        return self._cache.put(canonical, answer)

    def _count_failure(self, error: "_RequestError") -> None:
        log.warning("%s gave no answer: %s", self._judge.name, error)
        with self._lock:
            self._failures += 1
            down = self._failures >= _FAILURES_IN_A_ROW
        if down:
            raise EndpointError(
                f"{self._judge._url()} failed {_FAILURES_IN_A_ROW} times in a row ({error}); run "
                "again when it is back, finished answers are kept"
            ) from error

    def _fetch(self, request: dict[str, Any]) -> Answer:
        import openai

        for _ in range(_BROKEN_ANSWERS):
            try:
                completion = self._client.chat.completions.create(**request)
                return _read(completion, request["messages"][0]["content"])
            except openai.APIConnectionError as error:  # time-outs too
                raise _RequestError(str(error)) from error
            except openai.APIStatusError as error:
                return self._refused(error)
            # Broken json, or json of another shape, which the client does not check.
            except (openai.APIError, ValueError, TypeError, AttributeError, IndexError) as error:
                broken = error
        raise _RequestError(f"not a completion: {broken!r}") from broken

    def _refused(self, error: "openai.APIStatusError") -> Answer:
        """An error status that is left after the client's retries."""
        status = error.status_code
        if status in (408, 409, 429) or status >= 500:
            raise _RequestError(error.message) from error
        if status == 400 and error.code in ("content_filter", "content_policy_violation"):
            return Answer("", True, 0, 0)  # an empty answer: the text itself is turned down
        raise InputError(
            f"{self._judge._url()} refuses the request ({error.message}); check the model's name "
            f"({self._judge.model}), the key and the address"
        ) from error


def _read(completion: Any, sent: str) -> Answer:
    """The answer in a completion, with the endpoint's counts of tokens if it gives them."""
    choice = completion.choices[0]
    text = choice.message.content or ""
    if not isinstance(text, str):
        raise TypeError(f"the answer is {type(text).__name__}, not text")
    counts = completion.usage
    return Answer(
        text=text,
        complete=choice.finish_reason != "length",
        prompt_tokens=getattr(counts, "prompt_tokens", None) or approximate_tokens(sent),
        completion_tokens=getattr(counts, "completion_tokens", None) or approximate_tokens(text),
    )


class _RequestError(Exception):
    """One request got no answer, for a reason that may pass."""
