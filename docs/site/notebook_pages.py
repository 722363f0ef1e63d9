"""The notebooks as pages, with what `make notebooks` saw; without outputs where it has not run."""

import re
from collections.abc import Iterator
from pathlib import Path

import jupytext
import nbformat
from nbconvert import MarkdownExporter

ROOT = Path(__file__).parents[2]
FOLDER = "notebooks"
EXECUTED = ROOT / "build/notebooks"

ORDER = ("first_steps", "own_concept", "in_pyvene", "distribution", "safety")

_WIDGET = "application/vnd.jupyter.widget-view+json"


def pages() -> Iterator[tuple[str, str | bytes]]:
    """The path and content of each page, of its figures, and of the notebook itself."""
    for stem in ORDER:
        source, executed = ROOT / FOLDER / f"{stem}.py", EXECUTED / f"{stem}.ipynb"
        if executed.exists():
            notebook = nbformat.read(executed, as_version=4)
            yield f"{FOLDER}/{executed.name}", executed.read_bytes()
            more = f"[Download this notebook]({executed.name}), or open"
        else:
            notebook, more = (
                jupytext.read(source),
                "Without outputs: `make notebooks` makes them. Open",
            )
        more += f" `{FOLDER}/{source.name}` of a checkout in Jupyter (jupytext)."
        notebook.metadata = {"language_info": {"name": "python", "pygments_lexer": "python"}}
        for cell in notebook.cells:
            if cell.cell_type == "code":
                cell.outputs = [output for output in cell.outputs if _is_shown(output)]
        text, resources = MarkdownExporter().from_notebook_node(
            notebook, {"unique_key": stem, "output_files_dir": f"{stem}_files"}
        )
        title, _, rest = plain_tables(text).strip().partition("\n")
        yield f"{FOLDER}/{stem}.md", f"{title}\n\n{more}\n{rest}\n"
        for name, content in resources["outputs"].items():
            yield f"{FOLDER}/{name}", content


def _is_shown(output: nbformat.NotebookNode) -> bool:
    """Progress bars are not: a page has no widgets, and no terminal."""
    return output.get("name") != "stderr" and _WIDGET not in output.get("data", {})


def plain_tables(text: str) -> str:
    """Data frames without pandas' own style, in that of the site."""
    text = re.sub(r"<style scoped>.*?</style>\s*", "", text, flags=re.DOTALL)
    return text.replace('<table border="1" class="dataframe">', "<table>")
