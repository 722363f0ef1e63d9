from concept_das.evaluation.recognition import concept_words, recognised

CONCEPT = ["Arr, matey! The sea is wide.", "Ahoy matey, look.", "Arr! A ship, the sea.", "Matey?"]
NEUTRAL = ["The sea is wide.", "Look at the ship.", "A dog.", "The cat is here."]


def test_words_of_the_concept_are_those_that_neutral_texts_lack() -> None:
    assert concept_words(CONCEPT, NEUTRAL) == ["matey", "arr", "ahoy"]
    assert concept_words(CONCEPT, NEUTRAL, most=1) == ["matey"]
    assert concept_words(CONCEPT, CONCEPT) == []


def test_answers_are_recognised_by_whole_words_of_any_case() -> None:
    texts = ["ARR, says he", "an array of mates", "", "matey-like", "Матей"]
    assert recognised(texts, ["arr", "matey"]) == [True, False, False, True, False]
