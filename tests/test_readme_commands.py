"""Every `concept-das` command of the README, of docs/ and of results/ runs, page by page.

The lines of a page are given in their order in one folder, as a reader gives them, on a tiny model
and with few rows, tokens and steps.
"""

import io
import re
import shlex
import shutil
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from concept_das.cli import main
from concept_das.data.quadruples import Quadruple
from concept_das.data.reading import to_frame
from tests.benchmarks.axbench.files import record
from tests.tiny import tiny_model, tiny_tokenizer

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "results/README.md"]

# What makes each command small; a flag that is given twice has its last value.
SMALL = {
    "data make": ["--count=8", "--max_new_tokens=4"],
    "data axbench": ["--max_new_tokens=4"],
    "train": ["--wandb=off", "--epochs=1", "--heldout=2", "--max_response_tokens=4"],
    "steer": ["--max_new_tokens=4"],
    "compare": [
        *("--layer=1", "--rows=4", "--heldout=2", "--unrelated=2", "--generations=1"),
        *("--new_tokens=4", "--multipliers=[1.0]", "--methods=cdas,diffmean", "--seeds=[1]"),
        '--changes={"all": {"epochs": 1, "max_response_tokens": 4}}',
    ],
    "sweep": [
        *("--layers=[1]", "--ranks=[1, 2]", "--rows=4", "--heldout=2", "--unrelated=2"),
        *("--epochs=1", "--max_response_tokens=4", "--multipliers=[1.0]"),
    ],
}
# Run by tests of their own: the demo's, the playground's, and those that have a hub to share on.
ELSEWHERE = re.compile(r"demo |play |share |.* --vector name/")


def commands(page: Path) -> list[list[str]]:
    found = re.findall(r"```(.*?)\n(.*?)```", page.read_text(), flags=re.DOTALL)
    text = "\n".join(block for language, block in found if language in ("", "bash"))
    lines = text.replace("\\\n", " ").splitlines()
    known = [line.removeprefix("concept-das ") for line in lines if line[:12] == "concept-das "]
    return [shlex.split(line, comments=True) for line in known if not ELSEWHERE.match(line)]


@pytest.fixture
def readers_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The files that the pages name, and a tiny model in place of the packaged one."""
    tiny_model().save_pretrained(tmp_path / "tiny")
    tiny_tokenizer().save_pretrained(tmp_path / "tiny")
    monkeypatch.setattr("concept_das.models.loading.packaged_model", lambda _: tmp_path / "tiny")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.stdin", io.StringIO("How are you?\n"))
    rows = [Quadruple(f"Ask {i}", f"Plain {i}", f"Ask {i} so", f"Arr {i}", 1) for i in range(8)]
    Path("runs/demo").mkdir(parents=True)
    for path in ("pirate.parquet", "runs/demo/data.parquet"):
        to_frame(rows).to_parquet(path)
    axbench = [
        record(f"Do {i}", f"Aye {number} {i}", f"concept {number}", "text", number)
        for number in (0, 3, 9)
        for i in range(8)
    ]
    for path in ("concept10_2b_l20_train.parquet", "concept-3-rows.parquet"):
        pd.DataFrame(axbench).to_parquet(path)
    for number in (0, 3, 9):
        to_frame([replace(row, concept_id=number) for row in rows]).to_parquet(
            f"concept-{number}.parquet"
        )
    return tmp_path


def small(words: list[str]) -> list[str]:
    name = " ".join(words[: 2 if words[0] == "data" else 1])
    more = list(SMALL.get(name, ()))
    if name == "train":
        if "--layer" in words:
            more.append("--layer=1")
        if any(word.startswith("[") for word in words):
            more.append("--layers=[1, 2]")
    # What the shell would put in its place
    return [re.sub(r"^METHODS$|^\$\(.*\)$", "{}", word) for word in words] + more


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, marks=pytest.mark.slow) if page.parent.name == "results" else page
        for page in PAGES
        if commands(page)
    ],
    ids=lambda page: str(page.relative_to(ROOT)),
)
def test_the_commands_of_a_page_run_in_their_order(page: Path, readers_folder: Path) -> None:
    # The pages of docs/ go on with the README's vector, which is also the one that is shipped.
    if page.parent.name == "docs":
        first = next(words for words in commands(PAGES[0]) if words[0] == "train")
        assert main(small(first)) == 0
        shutil.copytree("runs/pirate/vector", "pirate")
    for words in commands(page):
        assert main(small(words)) == 0, " ".join(words)
