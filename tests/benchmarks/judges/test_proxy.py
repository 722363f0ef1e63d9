import json

import pytest

from benchmarks.judges.proxy import Fluency, ProxyJudge, Relatedness, fit_probe
from benchmarks.judges.ratings import EMPTY_RESPONSE, Item, Rater
from concept_das.errors import InputError
from tests.benchmarks.judges.test_proxy_likelihoods import POOL
from tests.benchmarks.judges.test_proxy_probe import NEGATIVE, POSITIVE
from tests.concept_das.helpers import tiny_chat, tiny_loaded

CHAT = tiny_chat()
LOADED = tiny_loaded()


@pytest.fixture(scope="module")
def judge() -> ProxyJudge:
    return ProxyJudge(
        LOADED,
        concept="pirate",
        probe=fit_probe(POSITIVE, NEGATIVE),
        relatedness=Relatedness(POOL, others=3),
        fluency=Fluency.calibrated(LOADED.model, CHAT, [*POSITIVE[:8], *NEGATIVE[:8]]),
    )


ITEMS = [
    Item(POOL[0], POSITIVE[0], "pirate"),
    Item(POOL[1], NEGATIVE[0], "pirate"),
    Item(POOL[3], POSITIVE[1], "pirate"),
    Item(POOL[2], "zz" * 30, "pirate"),
    Item(POOL[0], POSITIVE[0], "pirate"),
]


def test_each_rating_is_that_of_its_own_rule(judge: ProxyJudge) -> None:
    ratings = judge.rate(ITEMS)
    model = LOADED.model
    pairs = [(item.instruction, item.response) for item in ITEMS]
    texts = [item.response for item in ITEMS]
    assert [r.concept for r in ratings] == [judge.probe.rate([item.response])[0] for item in ITEMS]
    assert [r.instruct for r in ratings] == judge.relatedness.rate(model, CHAT, pairs)
    assert [r.fluency for r in ratings] == judge.fluency.rate(model, CHAT, texts)
    assert ratings[0].concept
    assert ratings[1].concept == 0
    assert ratings[3].fluency == 0


def test_a_rating_does_not_depend_on_the_others(judge: ProxyJudge) -> None:
    together = judge.rate(ITEMS)
    assert [judge.rate([item])[0] for item in ITEMS] == together
    assert judge.rate(ITEMS[::-1]) == together[::-1]


def test_responses_without_text_are_rated_zero_by_rule(judge: ProxyJudge) -> None:
    blank = Item(POOL[0], " \n", "pirate")
    assert judge.rate([blank, ITEMS[0], blank])[::2] == [EMPTY_RESPONSE] * 2
    assert judge.rate([]) == []


def test_a_concept_without_a_probe_is_named(judge: ProxyJudge) -> None:
    with pytest.raises(InputError, match="'shouting'"):
        judge.rate([Item(POOL[0], "AHOY", "shouting")])


def test_it_is_always_labelled_a_proxy(judge: ProxyJudge) -> None:
    labelled: Rater = judge
    assert labelled.kind == "proxy"
    assert labelled.name == "proxy by tiny-llama"


def test_what_it_rests_on_can_be_kept_as_json(judge: ProxyJudge) -> None:
    kept = json.loads(json.dumps(judge.description()))
    assert kept["judge_kind"] == "proxy"
    assert kept["probe_auroc"]["pirate"] == pytest.approx(1.0)
    assert kept["probe_thresholds"]["pirate"] == [
        judge.probe.some,
        judge.probe.clear,
    ]
    assert kept["fluency_usual"] == judge.fluency.usual
