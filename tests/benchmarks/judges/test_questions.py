import pytest

from benchmarks.judges.questions import parse_rating, question_text
from benchmarks.judges.ratings import QUESTIONS, Item, Question

ITEM = Item("How far is the moon?", "Arr, it be $concept far, {instruction}, $$.", "Pirate talk")


@pytest.mark.parametrize(
    ("answer", "rating"),
    [
        ("Rating: [[2]]", 2),
        ("Rating: 2", 2),
        ("Rating: [1]", 1),
        ("Rating:0", 0),
        ("rating : [[ 1 ]]", 1),
        ("**Rating:** [[2]]", 2),
        ("**Rating**: 1", 1),
        ("**Rating: [[0]]**", 0),
        ("*Rating: 2*.", 2),
        ("__Rating:__ **2**", 2),
        ("Rating:\n\n[[2]]", 2),
        ("**Rating:**\n2", 2),
        ("Explanation: it is fluent.\nRating: [[2]]\n", 2),
        ("It is good. Rating: 1.", 1),
        ("I first thought Rating: [[0]], but no.\nRating: [[2]]", 2),
        ("Rating: [[1]]\n\nNothing else counts.", 1),
        ("Rating: 5\nNo, that is off the scale.\nRating: 1", 1),
    ],
)
def test_ratings_that_can_be_read(answer: str, rating: int) -> None:
    assert parse_rating(answer) == rating


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "2",
        "The text is fluent.",
        "Rating:",
        "Rating: ",
        "**Rating:**",
        "Rating: [[n]]",
        "Rating: two",
        "Rating: [[3]]",
        "Rating: 3",
        "Rating: [[-1]]",
        "Rating: -1",
        "Rating: 1.5",
        "Rating: [[1.5]]",
        "Rating: 2.0",
        "Rating: 10",
        "Rating: [[22]]",
        "Rating: ٢",
        "Rating: 1 or 2",
        "Rating: [[1]] or [[2]]",
        "Rating: 1/2",
        "Rating: 1-2",
        "Rating: [[1",
        "Rating: [[1]",
        "Rating: 1]]",
        "Rating: [[2]]\nRating: [[3]]",
        "Rating: [[2]]\nRating:",
        "Operating: 2",
        "Rating 2",
    ],
)
def test_anything_else_is_malformed(answer: str) -> None:
    assert parse_rating(answer) is None


def test_a_question_holds_what_it_asks_about_and_nothing_more() -> None:
    shown = {
        question: [name for name in ("instruction", "concept") if getattr(ITEM, name) in text]
        for question in QUESTIONS
        for text in [question_text(question, ITEM)]
    }
    assert shown == {"concept": ["concept"], "instruct": ["instruction"], "fluency": []}


@pytest.mark.parametrize("question", QUESTIONS)
def test_the_response_is_quoted_as_it_is(question: Question) -> None:
    assert f"<text>\n{ITEM.response}\n</text>" in question_text(question, ITEM)


@pytest.mark.parametrize("question", QUESTIONS)
def test_the_form_asked_for_can_be_read(question: Question) -> None:
    text = question_text(question, ITEM)
    last = text.splitlines()[-1]
    assert last == "Rating: [[n]]"
    assert [parse_rating(last.replace("[n]", f"[{n}]")) for n in range(3)] == [0, 1, 2]
    assert parse_rating(text) is None


def test_every_reminder_makes_another_text_around_the_same_question() -> None:
    plain = question_text("fluency", ITEM)
    texts = [question_text("fluency", ITEM, reminders=n) for n in range(4)]
    assert len(set(texts)) == 4
    assert texts[0] == plain
    assert all(text.startswith(plain) for text in texts)
