"""The cost of an endpoint's answers: estimated before, counted after."""

import threading
from dataclasses import dataclass, field

CHARACTERS_PER_TOKEN = 4
"""Rule of thumb for English, for estimates only: what was spent is the endpoint's own count."""


@dataclass(frozen=True)
class Price:
    """Dollars per million tokens."""

    prompt: float
    completion: float

    def of(self, prompt_tokens: float, completion_tokens: float) -> float:
        """Dollars for so many tokens."""
        return (self.prompt * prompt_tokens + self.completion * completion_tokens) / 1e6


# List prices, without batch or cache discounts; they change, so an endpoint takes its own.
PRICES = {
    "gpt-4o-mini": Price(0.15, 0.60),
    "gpt-4o": Price(2.50, 10.00),
    "gpt-4.1-nano": Price(0.10, 0.40),
    "gpt-4.1-mini": Price(0.40, 1.60),
    "gpt-4.1": Price(2.00, 8.00),
}


def approximate_tokens(text: str) -> int:
    """Tokens of a text by the rule of thumb, rounded up."""
    return -(-len(text) // CHARACTERS_PER_TOKEN)


@dataclass
class Usage:
    """Running total of what was asked and billed; threads may add at once."""

    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False, compare=False)

    def add(self, prompt_tokens: int, completion_tokens: int) -> None:
        """Count one answer."""
        with self._lock:
            self.requests += 1
            self.prompt_tokens += prompt_tokens
            self.completion_tokens += completion_tokens

    def summary(self, price: Price | None) -> str:
        """Dollars, or tokens where the price is not known."""
        if price is None:
            return f"{self.prompt_tokens} tokens in, {self.completion_tokens} out"
        return f"${price.of(self.prompt_tokens, self.completion_tokens):.4f}"


@dataclass(frozen=True)
class Estimate:
    """Requests and cost of a run before it starts, without questions asked again.

    Attributes:
        requests: answers that are not in the cache yet.
        cached: answers that are.
        prompt_tokens: by the rule of thumb.
        completion_tokens: expected.
        completion_limit: if every answer is as long as the token limit lets it be.
        price: None if it is not known.
    """

    requests: int
    cached: int
    prompt_tokens: int
    completion_tokens: int
    completion_limit: int
    price: Price | None

    @property
    def dollars(self) -> float | None:
        """Expected cost; None if the price is not known."""
        if self.price is None:
            return None
        return self.price.of(self.prompt_tokens, self.completion_tokens)

    def __str__(self) -> str:
        text = (
            f"{self.requests} requests ({self.cached} more are in the cache), about "
            f"{self.prompt_tokens} tokens in and {self.completion_tokens} out"
        )
        if self.price is None:
            return f"{text}; the price is not known"
        limit = self.price.of(self.prompt_tokens, self.completion_limit)
        return f"{text}: about ${self.dollars:.2f}, ${limit:.2f} if all answers are of full length"
