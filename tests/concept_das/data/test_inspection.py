from concept_das.data.inspection import format_marks, mark_tokens
from tests.concept_das.helpers import encoded_rows, tiny_chat


def test_every_token_has_its_part() -> None:
    chat, turn = tiny_chat(source_token=-3), encoded_rows()[0].elicit.base
    prompt = chat.prompt("Name a fruit")
    marks = list(mark_tokens(chat, prompt.with_response(turn.response)))
    assert [mark.token_id for mark in marks] == [*prompt.ids, *turn.response]
    prefix, end = prompt.prefix_length, len(prompt.ids)
    roles = [mark.role for mark in marks]
    assert roles[:prefix] == ["prefix"] * prefix
    assert roles.index("source") == prompt.source_position == end - 3
    assert roles.count("source") == 1
    assert set(roles[prefix:end]) == {"prompt", "source"}
    assert roles[end:] == ["response"] * len(turn.response)
    assert [mark.intervened for mark in marks] == [i >= prefix for i in range(len(marks))]
    assert [mark.scored for mark in marks] == [i >= end for i in range(len(marks))]
    text = "".join(mark.text for mark in marks[prefix : prefix + len("Name a fruit")])
    assert text == "Name a fruit"


def test_the_table_for_the_terminal() -> None:
    chat, turn = tiny_chat(), encoded_rows()[0].elicit.base
    header, *lines = format_marks(chat, turn).splitlines()
    assert header.split() == ["pos", "id", "role", "intervened", "scored", "token"]
    assert len(lines) == len(turn.ids)  # a line break in a token does not break its line
    assert lines[0].split() == ["0", "1", "prefix", ".", ".", "'<|im_start|>'"]
    source = turn.prompt.source_position
    assert lines[source].split()[:1] + lines[source].split()[2:] == [
        str(source),
        "source",
        "x",
        ".",
        r"'\n'",
    ]
    assert lines[-1].split()[2:5] == ["response", "x", "x"]
