import threading

import pytest

from benchmarks.judges.prices import Estimate, Price, Usage, approximate_tokens


def test_a_price_is_per_million_tokens() -> None:
    assert Price(0.15, 0.6).of(2_000_000, 500_000) == pytest.approx(0.6)


@pytest.mark.parametrize(("text", "tokens"), [("", 0), ("a", 1), ("four", 1), ("fives", 2)])
def test_tokens_are_a_quarter_of_the_characters(text: str, tokens: int) -> None:
    assert approximate_tokens(text) == tokens


def test_usage_loses_nothing_between_threads() -> None:
    usage = Usage()
    threads = [
        threading.Thread(target=lambda: [usage.add(3, 1) for _ in range(500)]) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (usage.requests, usage.prompt_tokens, usage.completion_tokens) == (4000, 12000, 4000)
    assert usage.summary(Price(1.0, 2.0)) == "$0.0200"
    assert usage.summary(None) == "12000 tokens in, 4000 out"


def test_an_estimate_says_dollars_only_where_the_price_is_known() -> None:
    known = Estimate(10, 5, 2_000_000, 1_000_000, 3_000_000, Price(1.0, 2.0))
    assert known.dollars == pytest.approx(4.0)
    assert "10 requests (5 more" in str(known)
    assert "about $4.00, $8.00 if" in str(known)
    unknown = Estimate(10, 5, 2_000_000, 1_000_000, 3_000_000, None)
    assert unknown.dollars is None
    assert "$" not in str(unknown)
