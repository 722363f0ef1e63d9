"""Share a comparison on the Hugging Face hub, as a data set with its tables and figures."""

import shutil
import tempfile
from pathlib import Path

from concept_das.errors import InputError
from concept_das.steering.hub import upload

# Of `concept_das.reports.results.write_comparison`; the first one marks such a repository.
FILES = (
    "comparison.html",
    "table.csv",
    "summary.csv",
    "summary.md",
    "recovery.png",
    "tradeoff.png",
)


def share_comparison(
    folder: Path,
    repo_id: str,
    *,
    license: str | None = None,
    private: bool = False,
    revision: str | None = None,
    token: str | bool | None = None,
) -> str:
    """Upload what a comparison found, with a card that shows its tables and figures.

    `datasets.load_dataset(repo_id)` reads the table: a row per method, concept, seed and
    multiplier.

    Args:
        folder: of a comparison that is finished.
        repo_id, license, private, revision, token: see `Artifact.push_to_hub`.

    Returns:
        The repository's address.

    Raises:
        InputError: if a file is missing, the hub refuses, or the repository holds something else.
    """
    for name in FILES:
        if not (folder / name).exists():
            raise InputError(
                f"{folder} holds no {name}; give the folder of a comparison that is finished"
            )
    with tempfile.TemporaryDirectory() as scratch:
        for name in FILES:
            shutil.copy(folder / name, scratch)
        card = comparison_card((folder / "summary.md").read_text(encoding="utf-8"), license)
        Path(scratch, "README.md").write_text(card, encoding="utf-8")
        return upload(
            Path(scratch),
            repo_id,
            FILES[0],
            kind="dataset",
            private=private,
            revision=revision,
            token=token,
        )


def comparison_card(summary: str, license: str | None = None) -> str:
    """The text of a comparison's README.md, with metadata that the hub reads.

    Args:
        summary: the text of its summary.md.
    """
    from huggingface_hub import DatasetCardData

    title, _, tables = summary.partition("\n")
    name = title.removeprefix("# ")
    metadata = DatasetCardData(
        pretty_name=f"Comparison of steering methods: {name}",
        license=license,
        tags=["concept-das", "steering-vector"],
        task_categories=["text-generation"],
        configs=[{"config_name": "default", "data_files": "table.csv"}],
    )
    return f"""---
{metadata.to_yaml()}
---

# Comparison of steering methods: {name}

Methods trained on the same rows and measured in the same way by `concept-das compare`.
`table.csv` has a row per method, concept, seed and multiplier; `comparison.html` shows everything
on one page, with answers.

![recovery and side effect of each method](tradeoff.png)

![recovery by strength](recovery.png)

{tables.strip()}
"""
