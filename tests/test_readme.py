"""The code of the README and of docs/ runs, and their commands exist."""

import re
import shlex
from pathlib import Path

import pytest
import torch

from concept_das import SteeringVector
from concept_das.cli.configs import underscored
from concept_das.cli.parser import build_parser
from concept_das.steering.vector import ModelIdentity
from tests.tiny import save_tiny, tiny_model

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
TEXT = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
PYTHON = re.findall(r"```python\n(.*?)```", TEXT, flags=re.DOTALL)
COMMANDS = [
    line.split("#")[0].strip()
    for block in re.findall(r"```bash\n(.*?)```", TEXT, flags=re.DOTALL)
    for line in block.splitlines()
    if line.startswith("concept-das ")
]


def test_every_block_is_run_by_a_test():
    """Blocks that need a model of the reader's own are marked `notest`."""
    known = ("import pyvene", "load_model", "# my_method.py")  # the last: test_own_methods.py
    assert all(sum(word in block for word in known) == 1 for block in PYTHON)
    languages = re.findall(r"^```(.+)$", TEXT, flags=re.MULTILINE)
    assert set(languages) == {"python", "python notest", "bash", "text"}  # text: output


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CONTRIBUTING.md"], ids=lambda page: page.name)
def test_links_and_paths_lead_to_files(page):
    text = page.read_text(encoding="utf-8")
    links = [link for link in re.findall(r"\]\(([^)#]+)", text) if "://" not in link]
    assert all((page.parent / link).exists() for link in links)
    paths = re.findall(
        r"`((?:concept_das|benchmarks|objectives|interventions|tests|scripts)/[\w./-]*)`", text
    )
    assert [path for path in paths if not (ROOT / path).exists()] == []


@pytest.fixture
def tiny_folder(tmp_path):
    return save_tiny(tmp_path / "model")


def test_the_pyvene_script_trains_and_saves(tiny_folder, tmp_path, monkeypatch, capsys):
    (script,) = [block for block in PYTHON if "import pyvene" in block]
    assert set(re.findall(r"^(?:from|import) (\w+)", script, flags=re.MULTILINE)) == {
        "pyvene",
        "torch",
        "transformers",
        "interventions",
    }
    script = script.replace("HuggingFaceTB/SmolLM2-135M-Instruct", str(tiny_folder))
    monkeypatch.chdir(tmp_path)
    namespace: dict = {}
    exec(script.replace("LAYER = 15", "LAYER = 1"), namespace)
    losses = [
        float(line.split()[1])
        for line in capsys.readouterr().out.splitlines()
        if line[:1].isdigit()
    ]
    assert len(losses) == 10
    assert losses[-1] < losses[0]
    torch.testing.assert_close(namespace["swap"].weight.norm(), torch.tensor(1.0))
    assert (tmp_path / "pirate-pyvene" / "config.json").exists()


@pytest.mark.parametrize("script", [block for block in PYTHON if "load_model" in block])
def test_the_steering_scripts_run(script, tiny_folder, tmp_path, monkeypatch, capsys):
    model = tiny_model("llama")
    weight = torch.nn.functional.normalize(torch.randn(1, model.config.hidden_size), dim=1)
    vector = SteeringVector(
        weight, -torch.ones(1), torch.ones(1), layer=1, model=ModelIdentity.of(model)
    )
    vector.save(tmp_path / "runs/demo/vector")
    vector.save(tmp_path / "pirate")  # a folder comes before what is shipped
    monkeypatch.chdir(tmp_path)
    exec(script.replace("smollm2-135m", str(tiny_folder)), {})
    assert capsys.readouterr().out.strip()


@pytest.fixture(scope="module")
def parser():
    return build_parser()


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_parse(command, parser, tmp_path):
    arguments = [underscored(word) for word in shlex.split(command)[1:]]
    if "--config" in arguments:  # a run's own file, which does not exist here
        config = tmp_path / "config.yaml"
        config.write_text("data: rows.parquet\nlayer: 15\nepochs: 2\n")
        arguments[arguments.index("--config") + 1] = str(config)
    parser.parse_args(arguments)
