import re
from dataclasses import replace

from concept_das.playground import drawing
from concept_das.playground.reading import Change, Read
from tests.concept_das.helpers import random_vector, tiny_loaded
from tests.concept_das.playground.tiny_playground import tiny_playground

PLACE = ("one", None)
ORANGE, BLUE = "240, 120, 20", "70, 140, 220"


def text_of(html: str) -> str:
    return re.sub("<[^>]+>", "", html)


def test_every_text_is_escaped() -> None:
    nasty = '<script>alert("&")</script>'
    change = Change(nasty, 0.5, (nasty, 0.5), (nasty, 0.5))
    for html in (
        drawing.growing(nasty),
        drawing.error(nasty),
        drawing.card(nasty, nasty and drawing.note(nasty)),
        drawing.coloured(Read((nasty,), {PLACE: (1.0,)}), PLACE, (0.0, 1.0)),
        drawing.coloured(Read((nasty,), {}), None, (0.0, 1.0)),
        drawing.bars([change]),
    ):
        assert "<script" not in html
        assert "&lt;script&gt;" in html


def test_colours_follow_the_coordinate() -> None:
    text = Read(("low", " zero", " high", " higher"), {PLACE: (-1.0, 0.0, 1.5, 9.0)})
    html = drawing.coloured(text, PLACE, (0.0, 1.5))
    assert text_of(html) == "low zero high higher"
    colours = re.findall(r"rgba\((.*?), ([\d.]+)\)", html)
    assert colours == [(BLUE, "0.47"), (BLUE, "0.00"), (ORANGE, "0.70"), (ORANGE, "0.70")]
    assert 'title="-1.00"' in html


def test_the_legend_says_what_the_colours_are() -> None:
    playground = tiny_playground()
    legend = text_of(drawing.legend(playground, ("two", None), (0.0, 1.5)))
    assert "mean over the blocks 1, 2" in legend
    assert "0 is like a neutral prompt, 1 like a prompt that asks for the concept" in legend
    assert "after block 2" in drawing.legend(playground, ("two", 2), (0.0, 1.5))
    assert "after block 2" in drawing.legend(playground, PLACE, (0.0, 1.5))
    assert drawing.legend(playground, None, (0.0, 1.5)) == ""


def test_a_vector_without_a_scale_is_coloured_by_what_is_there() -> None:
    vector = random_vector(tiny_loaded().model)
    texts = [Read(("a", "b"), {PLACE: (10.0, 14.0)}), Read((), {PLACE: ()})]
    assert drawing.scale_of(vector, texts, PLACE) == (0.0, 1.5)
    adding = replace(vector, operation="add")
    assert drawing.scale_of(adding, texts, PLACE) == (12.0, 2.0)
    legend = drawing.legend(tiny_playground(one=adding), PLACE, (12.0, 2.0))
    assert text_of(legend).startswith("10.014.0 ")
    assert drawing.scale_of(adding, [], PLACE)[0] == 0.0


def test_bars_are_as_high_as_the_divergence() -> None:
    changes = [
        Change(p, d, ("x", 0.25), ("y", 0.5)) for p, d in (("Ahoy", 0.2), ("\n", 0.1), ("!", 0.0))
    ]
    html = drawing.bars(changes)
    assert re.findall(r"height: (\d+)px", html) == ["36", "18", "0"]
    assert "mean 0.10 nats, largest 0.20" in html
    assert html.count("cd-break") == 1
    assert "likeliest unsteered: &#x27;x&#x27; (25%), steered: &#x27;y&#x27; (50%)" in html
    assert "empty" in drawing.bars([])
