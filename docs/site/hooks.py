"""Hooks of the documentation site: which files are its pages, and what is put into them.

The pages lie where they belong in the repository and link to each other by relative paths. The site
has them under the same paths, so every link leads to the same file as on GitHub.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parent.parent.parent

PAGES = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "docs/*", "benchmarks/**/README.md")

# Tables and figures with the pages that show them.
RESULTS = "results/**/*"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Take the repository's pages in place of the folder docs, under the repository's paths."""
    others = [file for file in files if file.src_dir != config.docs_dir]  # of the theme
    return Files([*others, *_files(config)])


def _files(config: MkDocsConfig) -> Iterator[File]:
    for pattern in (*PAGES, RESULTS):
        for path in sorted(ROOT.glob(pattern)):
            if path.is_file() and not path.name.startswith("."):
                name = path.relative_to(ROOT).as_posix()
                yield File(name, str(ROOT), config.site_dir, config.use_directory_urls)


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Put the reference of a stub's names, and of modules, in place of `<!-- names: STUB -->`."""
    markdown = markdown.replace("```python notest", "```python")
    markdown = re.sub(r"<!-- names: (\S+) -->", lambda m: "\n\n".join(_names(m[1])), markdown)
    return re.sub(r"<!-- methods -->", lambda _: "\n\n".join(_methods()), markdown)


def _names(stub: str) -> Iterator[str]:
    """The public names that a stub lists, each where it is defined."""
    package = stub.rpartition("/")[0].replace("/", ".")
    lines = (ROOT / stub).read_text(encoding="utf-8").splitlines()
    for line in lines:
        if found := re.fullmatch(r"from \.(\S+) import (\w+) as \w+", line):
            yield f"::: {package}.{found[1]}.{found[2]}"


def _methods() -> Iterator[str]:
    """Each method's docstrings, of its file and its class, with its own hyper-parameters."""
    folder = ROOT / "concept_das/methods"
    registry = (folder / "registry.py").read_text(encoding="utf-8")
    defaults = yaml.safe_load((ROOT / "concept_das/recipes/defaults.yaml").read_text("utf-8"))
    files = {path.stem: path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.py"))}
    shown = set()
    for kind in re.findall(r"^        (\w+)\(\),$", registry, flags=re.MULTILINE):
        file = next(name for name, text in files.items() if f"\nclass {kind}(" in text)
        if file not in shown:
            shown.add(file)
            yield f"## {file.replace('_', ' ')}"
            yield (
                f"::: concept_das.methods.{file}\n    options: {{members: false, "
                "show_root_heading: false, show_root_toc_entry: false}"
            )
        body = files[file].partition(f"\nclass {kind}(")[2]
        name = re.search(r"^    name(?:: .*)? = \"(\w+)\"", body, flags=re.MULTILINE)[1]
        yield (
            f"::: concept_das.methods.{file}.{kind}\n    options: {{members: false, "
            f"show_bases: false, heading: {name}, toc_label: {name}, "
            "show_symbol_type_heading: false}"
        )
        own = dict(defaults.get(name, {}))
        source = own.pop("source", "")
        values = ", ".join(f"`{option}: {value}`" for option, value in own.items())
        yield "  \n".join(
            [
                *([f"Hyper-parameters: {values}."] if values else []),
                *([f"Source: {source}"] if source else []),
            ]
        )
