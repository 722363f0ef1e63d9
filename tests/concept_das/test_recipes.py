"""Every shipped recipe is a valid set of options for `concept-das train`."""

import pytest

from concept_das.cli.parser import RECIPES, _with_recipe_paths, build_parser
from concept_das.training.loop import TrainingConfig

NAMES = sorted(path.stem for path in RECIPES.glob("*.yaml"))


def test_there_are_recipes():
    assert "gemma-2-2b-axbench-l20" in NAMES


@pytest.fixture(scope="module")
def parser():
    return build_parser()


@pytest.mark.parametrize("name", NAMES)
def test_parses_by_name_and_agrees_with_its_name(name, parser):
    arguments = ["train", "--config", name, "--data=rows.parquet", "--out=runs/x"]
    options = parser.parse_args(_with_recipe_paths(arguments)).train
    assert name.endswith(f"-l{options.layer}")
    fields = set(TrainingConfig.__dataclass_fields__)
    TrainingConfig(**{key: value for key, value in options.items() if key in fields})
    family = options.model.split("/")[1].lower().replace(".", "").replace("-", "")
    assert family.startswith(name.split("-")[0])


@pytest.mark.parametrize("name", NAMES)
def test_quotes_a_source_for_every_number(name):
    text = (RECIPES / f"{name}.yaml").read_text()
    for line in text.splitlines():
        option, _, value = line.partition(": ")
        if value[:1].isdigit() and option not in ("layer", "rank"):
            assert "# [C]" in line or "# [P]" in line, line
