"""The table of published scores."""

import pytest

from benchmarks.axbench.published import CELLS, published, read_published
from concept_das.errors import InputError


def test_scores_are_on_the_scale_and_every_cell_is_there() -> None:
    table = read_published()
    assert table["score"].between(0, 2).all()
    assert set(table["factor"]) == {"tuned", "unit", "oracle", "NA"}
    assert set(CELLS) < set(table["cell"])


def test_the_papers_gap_between_layers_comes_out() -> None:
    # The CDAS paper gives the difference between Gemma-2-2B's layers as 0.023 and 0.150.
    scores = {
        cell: published(cell).query("factor == 'fair'").set_index("method")["score"]
        for cell in CELLS[:2]
    }
    for method, gap in (("cdas", 0.023), ("reps", 0.150)):
        first, second = (of[method] for of in scores.values())
        assert first - second == pytest.approx(gap)


def test_a_cell_keeps_unit_and_tuned_apart() -> None:
    cdas = published("2b-l10").query("method == 'cdas'").set_index("factor")["score"]
    assert cdas.to_dict() == {"fair": 0.631, "fixed": 0.121, "oracle": 0.662}
    assert "hypersteer" not in set(published("2b-l10")["method"])
    with pytest.raises(InputError, match=r"'2b-l11'.*2b-l10, 2b-l20"):
        published("2b-l11")
