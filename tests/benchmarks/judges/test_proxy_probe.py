import random

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from benchmarks.judges.proxy import ConceptProbe, fit_probe
from concept_das.errors import InputError

_PLAIN = ["moon", "far", "away", "we", "walk", "home", "along", "quiet", "river", "old", "friend"]
_PIRATE = ["arr", "ahoy", "matey", "treasure", "plunder", "cutlass", "galleon", "rum", "yo-ho"]


def texts(words: list[str], number: int, seed: int) -> list[str]:
    generator = random.Random(seed)
    return [" ".join(generator.choices(words, k=12)) for _ in range(number)]


NEGATIVE = texts(_PLAIN, 40, 0)
POSITIVE = texts(_PIRATE, 40, 1)


@pytest.fixture(scope="module")
def probe() -> ConceptProbe:
    return fit_probe(POSITIVE, NEGATIVE)


def test_separable_texts_are_separated(probe: ConceptProbe) -> None:
    assert probe.auroc == pytest.approx(1.0)
    assert probe.texts == 80
    # By the rule, one negative text in twenty exceeds their 95% quantile, and half of the positive
    # ones reach their median.
    without = probe.rate(texts(_PLAIN, 60, 2))
    assert np.mean([rating == 0 for rating in without]) > 0.85
    assert 2 not in without
    clear = probe.rate(texts(_PIRATE, 50, 3))
    assert 0 not in clear
    assert np.mean([rating == 2 for rating in clear]) > 0.4


def test_the_rating_grows_with_the_share_of_the_concept(probe: ConceptProbe) -> None:
    generator = random.Random(4)
    shares = (0, 0.4, 1)
    means = [
        np.mean(
            probe.rate(
                [
                    " ".join(
                        generator.choice(_PIRATE if generator.random() < share else _PLAIN)
                        for _ in range(30)
                    )
                    for _ in range(20)
                ]
            )
        )
        for share in shares
    ]
    assert means == sorted(means)
    assert means[0] < 0.2
    assert 0.3 < means[1] < means[2]


def shuffled(seed: int) -> tuple[list[str], list[str]]:
    """The same texts, with labels that mean nothing."""
    mixed = random.Random(seed).sample(POSITIVE + NEGATIVE, 80)
    return mixed[:40], mixed[40:]


def test_held_out_auroc_is_chance_where_the_labels_mean_nothing() -> None:
    probes = [fit_probe(*shuffled(seed)) for seed in range(6)]
    assert np.mean([probe.auroc for probe in probes]) == pytest.approx(0.5, abs=0.1)
    # Texts that were trained on are told apart all the same, so they must not be what is measured.
    seen = [probes[0].scores(side) for side in shuffled(0)]
    assert roc_auc_score([1] * 40 + [0] * 40, seen[0] + seen[1]) > 0.7


def test_copies_do_not_leak_into_the_held_out_folds() -> None:
    # Random texts, each four times: with copies on both sides of the split they would be known.
    positive, negative = texts(_PLAIN, 20, 100), texts(_PLAIN, 20, 200)
    copied = fit_probe(positive * 4, negative * 4)
    assert copied == fit_probe(positive, negative)
    assert copied.auroc < 0.8


def test_a_useless_probe_rates_its_negatives_zero() -> None:
    shared = texts(_PLAIN, 30, 5)
    probe = fit_probe(shared, shared)
    assert probe.clear >= probe.some
    assert np.mean(np.array(probe.rate(texts(_PLAIN, 40, 6))) == 0) > 0.7


def test_the_thresholds_are_the_stated_rule() -> None:
    probe = ConceptProbe(1.0, some=-0.5, clear=0.5, texts=2, _pipeline=Scores())
    assert probe.rate(["-0.6", "-0.5", "-0.4", "0.4", "0.5", "9"]) == [0, 0, 1, 1, 2, 2]
    collapsed = ConceptProbe(0.5, some=0.5, clear=0.5, texts=2, _pipeline=Scores())
    assert collapsed.rate(["0.5", "0.6"]) == [0, 2]


class Scores:
    """Stands for the classifier: a text is its own score."""

    def decision_function(self, values: list[str]) -> np.ndarray:
        return np.array([float(value) for value in values])


def test_the_same_seed_gives_the_same_probe(probe: ConceptProbe) -> None:
    again = fit_probe(POSITIVE, NEGATIVE)
    assert again == probe
    assert again.scores(["ahoy there"]) == probe.scores(["ahoy there"])
    assert probe.scores([]) == []


def test_letter_case_counts() -> None:
    shouted = [text.upper() for text in texts(_PLAIN, 20, 7)]
    assert fit_probe(shouted, texts(_PLAIN, 20, 8)).auroc == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("positive", "negative", "culprit"),
    [
        ([], NEGATIVE, "0 different texts with the"),
        (POSITIVE, [], "0 different texts without the"),
        (POSITIVE[:1] * 9, NEGATIVE, "1 different texts with the"),
        (POSITIVE, [*NEGATIVE[:4], "", " \n"], "4 different texts without the"),
    ],
)
def test_a_class_with_too_few_texts_is_named(
    positive: list[str], negative: list[str], culprit: str
) -> None:
    with pytest.raises(InputError, match=culprit):
        fit_probe(positive, negative)
