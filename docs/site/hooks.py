"""Hooks of the documentation site: which files are its pages, and what is put into them.

The pages lie where they belong in the repository and link to each other by relative paths. The site
has them under the same paths, so every link leads to the same file as on GitHub. Beside them stand
pages that are made: a table of the paper, a method or a notebook each, and a list of all errors.
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import error_pages
import method_pages
import notebook_pages
import paper_pages
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parent.parent.parent

PAGES = (
    *("README.md", "CONTRIBUTING.md", "CHANGELOG.md"),
    *("docs/*", "docs/site/*.css", "benchmarks/**/README.md"),
)

# Tables and figures with the pages that show them.
RESULTS = "results/**/*"

MADE = {
    module.FOLDER: list(module.pages())
    for module in (error_pages, method_pages, notebook_pages, paper_pages)
}


def on_config(config: MkDocsConfig) -> None:
    """In the navigation, a name of a folder stands for all the pages that are made there."""
    for section in config.nav or []:
        for entries in section.values():
            if isinstance(entries, list):
                entries[:] = [page for entry in entries for page in _expanded(entry)]


def _expanded(entry: Any) -> Sequence[Any]:
    made = MADE.get(entry, ()) if isinstance(entry, str) else ()
    return [name for name, _ in made if name.endswith(".md")] or [entry]


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Take the repository's pages in place of the folder docs, under the repository's paths."""
    others = [file for file in files if file.src_dir != config.docs_dir]  # of the theme
    made = [
        File.generated(config, name, content=content)
        for pages in MADE.values()
        for name, content in pages
    ]
    return Files([*others, *_files(config), *made])


def _files(config: MkDocsConfig) -> Iterator[File]:
    for pattern in (*PAGES, RESULTS):
        for path in sorted(ROOT.glob(pattern)):
            if path.is_file() and not path.name.startswith("."):
                name = path.relative_to(ROOT).as_posix()
                yield File(name, str(ROOT), config.site_dir, config.use_directory_urls)


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Put the reference of a stub's names in place of `<!-- names: STUB -->`."""
    markdown = markdown.replace("```python notest", "```python")
    # A notebook is a page of its own name here.
    markdown = re.sub(r"\]\(((?:(?:\.\./)*notebooks/)?\w+)\.py\)", r"](\1.md)", markdown)
    return re.sub(r"<!-- names: (\S+) -->", lambda m: "\n\n".join(_names(m[1])), markdown)


def _names(stub: str) -> Iterator[str]:
    """The public names that a stub lists, each where it is defined."""
    package = stub.rpartition("/")[0].replace("/", ".")
    lines = (ROOT / stub).read_text(encoding="utf-8").splitlines()
    for line in lines:
        if found := re.fullmatch(r"from \.(\S+) import (\w+) as \w+", line):
            yield f"::: {package}.{found[1]}.{found[2]}"
