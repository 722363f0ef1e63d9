"""Questions to an OpenAI-compatible endpoint: cached, in parallel, paced, and tried again.

`Endpoint` is the door; one call of `Endpoint.answers` is one `_Connection`.
"""

import logging
import os
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm.auto import tqdm

from benchmarks.judges.answer_cache import Answer, AnswerCache, canonical_request
from benchmarks.judges.prices import PRICES, Estimate, Price, Usage, approximate_tokens
from benchmarks.judges.ratings import Kind
from concept_das.errors import InputError, OutsideError, UnfinishedError

if TYPE_CHECKING:
    import openai


OPENAI_URL = "https://api.openai.com/v1"

# The endpoint counts as down after so many failed requests with no answer between them.
_FAILURES_IN_A_ROW = 3
# One request is sent at most so often while the reply is not a completion.
_BROKEN_ANSWERS = 3

AskAgain = Callable[[str, int, Answer], str | None]
"""Takes the first text, the number of attempts so far and the last answer; returns the text to ask
next, or None if the answer will do."""

log = logging.getLogger(__name__)


class EndpointError(OutsideError):
    """The endpoint is down. Finished answers are in the cache, so a rerun goes on from there."""


@dataclass(frozen=True)
class Endpoint:
    """A model to be asked, each question as one user message.

    Attributes:
        cache: sqlite file of answers; endpoints and processes may share one.
        model: as the endpoint names it.
        base_url: the environment's OPENAI_BASE_URL if None, else OpenAI's.
        api_key: the environment's OPENAI_API_KEY if None; a local server takes any word.
        max_tokens: length of an answer.
        timeout: seconds for one request, after which it is tried again.
        concurrency: requests at the same time.
        requests_per_minute: also counts what is tried again; None for no limit.
        max_retries: of one request, by the client.
        usage: what was spent so far; a copy by `dataclasses.replace` goes on counting in it.

    Raises:
        InputError: for a setting that makes no sense.
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
    usage: Usage = field(default_factory=Usage, compare=False)

    kind: Kind = field(default="api", init=False)

    def __post_init__(self) -> None:
        for name in ("concurrency", "max_tokens"):
            if getattr(self, name) < 1:
                raise InputError(
                    f"{name} of an endpoint must be at least 1, not {getattr(self, name)}"
                )
        if self.requests_per_minute is not None and self.requests_per_minute <= 0:
            raise InputError("requests_per_minute must be above 0; leave it out for no limit")

    @property
    def name(self) -> str:
        """For tables."""
        return f"api {self.model}"

    @property
    def price(self) -> Price | None:
        """List price of the model, if it is known."""
        return PRICES.get(self.model)

    @property
    def url(self) -> str:
        """Address that requests go to."""
        return (self.base_url or os.environ.get("OPENAI_BASE_URL") or OPENAI_URL).rstrip("/")

    def estimate(self, texts: Collection[str], expected_tokens: int) -> Estimate:
        """Requests and cost of `answers`; needs no key and no connection.

        Args:
            texts: equal ones count once.
            expected_tokens: length of a usual answer.
        """
        different = dict.fromkeys(texts)
        with AnswerCache(self.cache) as cache:
            todo = [t for t in different if cache.get(self._canonical(t)) is None]
        return Estimate(
            requests=len(todo),
            cached=len(different) - len(todo),
            prompt_tokens=sum(map(approximate_tokens, todo)),
            completion_tokens=len(todo) * min(expected_tokens, self.max_tokens),
            completion_limit=len(todo) * self.max_tokens,
            price=self.price,
        )

    def answers(self, texts: Sequence[str], *, again: AskAgain | None = None) -> list[Answer]:
        """The answer to every text, from the cache or the endpoint; equal texts are asked once.

        Args:
            texts: what the user says, one request each.
            again: may ask another text in place of one whose answer will not do.

        Returns:
            In the order of `texts`, the last answer to each.

        Raises:
            InputError: if `openai` is not installed, there is no key, or the endpoint refuses
                the requests (wrong key, unknown model).
            UnfinishedError: if it failed to answer some, after all were asked; the others are in
                the cache.
            EndpointError: if the endpoint is down.
        """
        different = dict.fromkeys(texts)
        found: dict[str, Answer] = {}
        with (
            _connected(self) as connection,
            tqdm(total=len(different), desc=self.name, unit="question") as bar,
            ThreadPoolExecutor(self.concurrency) as pool,
        ):
            futures = {pool.submit(connection.ask, text, again): text for text in different}
            try:
                for future in as_completed(futures):
                    answer = future.result()
                    if answer is not None:
                        found[futures[future]] = answer
                    bar.set_postfix_str(self.usage.summary(self.price), refresh=False)
                    bar.update()
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        if failed := len(different) - len(found):
            raise UnfinishedError(
                f"{self.url} failed on {failed} of {len(different)} questions; run again to ask "
                f"those, the other answers are kept in {self.cache}"
            )
        return [found[text] for text in texts]

    def _request(self, text: str) -> dict[str, Any]:
        return {
            "model": self.model,
            "messages": [{"role": "user", "content": text}],
            "temperature": self.temperature,
            "max_tokens": self.max_tokens,
        }

    def _canonical(self, text: str) -> str:
        return canonical_request(self.url, self._request(text))


class Pace:
    """Lets callers through one after another, evenly spaced, whichever thread they are in.

    Args:
        per_minute: None for no limit.
    """

    def __init__(self, per_minute: float | None) -> None:
        self._spacing = 60 / per_minute if per_minute else 0.0
        self._lock = threading.Lock()
        self._next = time.monotonic()

    def wait(self) -> None:
        """Return when it is the caller's turn."""
        with self._lock:
            now = time.monotonic()
            turn = max(now, self._next)
            self._next = turn + self._spacing
        if turn > now:
            time.sleep(turn - now)


@contextmanager
def _connected(endpoint: Endpoint) -> Iterator["_Connection"]:
    try:
        import openai
    except ImportError as error:
        raise InputError(
            "asking an endpoint needs the openai package; pip install 'concept-das[judge]'"
        ) from error
    pace = Pace(endpoint.requests_per_minute)
    # The hook is called before each attempt, the client's own retries included.
    http = openai.DefaultHttpxClient(
        timeout=endpoint.timeout, event_hooks={"request": [lambda _request: pace.wait()]}
    )
    with http, AnswerCache(endpoint.cache) as cache:
        try:
            client = openai.OpenAI(
                api_key=endpoint.api_key,
                base_url=endpoint.url,
                max_retries=endpoint.max_retries,
                timeout=endpoint.timeout,
                http_client=http,
            )
        except openai.OpenAIError as error:
            raise InputError(
                f"no API key for {endpoint.url}: set OPENAI_API_KEY or pass api_key (any word for "
                "a server that wants none)"
            ) from error
        yield _Connection(endpoint, client, cache)


class _Connection:
    """The connection of one call of `answers`; it notices when the endpoint is down."""

    def __init__(self, endpoint: Endpoint, client: "openai.OpenAI", cache: AnswerCache) -> None:
        self._endpoint = endpoint
        self._client = client
        self._cache = cache
        self._lock = threading.Lock()
        self._failures = 0
        self._stopped = False

    def ask(self, text: str, again: AskAgain | None) -> Answer | None:
        """The last answer, or None if the endpoint gave none."""
        following: str | None = text
        answer, asked = None, 0
        try:
            # It is stopped when another thread's error is on its way to the caller.
            while following is not None and not self._stopped:
                answer = self._answer(following)
                asked += 1
                following = again(text, asked, answer) if again and answer else None
        except BaseException:
            self._stopped = True
            raise
        return answer

    def _answer(self, text: str) -> Answer | None:
        """From the cache, else from the endpoint; None if that fails."""
        endpoint = self._endpoint
        canonical = endpoint._canonical(text)
        known = self._cache.get(canonical)
        if known is not None:
            return known
        try:
            answer = self._fetch(endpoint._request(text))
        except _RequestError as error:
            log.warning("%s gave no answer: %s", endpoint.model, error)
            with self._lock:
                self._failures += 1
                down = self._failures >= _FAILURES_IN_A_ROW
            if down:
                raise EndpointError(
                    f"{endpoint.url} failed {_FAILURES_IN_A_ROW} times in a row ({error}); run "
                    "again when it is back, finished answers are kept"
                ) from error
            return None
        with self._lock:
            self._failures = 0
        endpoint.usage.add(answer.prompt_tokens, answer.completion_tokens)
        return self._cache.put(canonical, answer)

    def _fetch(self, request: dict[str, Any]) -> Answer:
        import openai

        for _ in range(_BROKEN_ANSWERS):
            try:
                completion = self._client.chat.completions.create(**request)
                return _read(completion, request["messages"][0]["content"])
            except openai.APIConnectionError as error:  # time-outs too
                raise _RequestError(str(error)) from error
            except openai.APIStatusError as error:  # left after the client's retries
                if error.status_code in (408, 409, 429) or error.status_code >= 500:
                    raise _RequestError(error.message) from error
                filtered = error.code in ("content_filter", "content_policy_violation")
                if error.status_code == 400 and filtered:
                    return Answer("", True, 0, 0)  # the text itself is turned down
                raise InputError(
                    f"{self._endpoint.url} refuses the request ({error.message}); check the "
                    f"model's name ({self._endpoint.model}), the key and the address"
                ) from error
            # Broken json, or json of another shape, which the client does not check.
            except (openai.APIError, ValueError, TypeError, AttributeError, IndexError) as error:
                broken = error
        raise _RequestError(f"not a completion: {broken!r}") from broken


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
