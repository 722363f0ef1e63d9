"""The paper's models: their sizes, and whether a model that a user names is one of them."""

import json
import re
from functools import cache
from pathlib import Path

import pandas as pd


@cache
def known_models() -> pd.DataFrame:
    """The paper's models by hub id, with width, blocks, vocabulary and number of parameters.

    The sizes are named as in a configuration; the parameters were counted by transformers in a
    model of these sizes.
    """
    return pd.read_csv(Path(__file__).with_name("models.csv"), index_col="model")


def is_model(name: str, hub_id: str | None) -> bool:
    """True if a name or a local folder is that model of the hub.

    A folder is, if it is called after the model (by its own name, by its place in the hub's cache,
    or by `_name_or_path` in its configuration) and its configuration has the model's sizes. Sizes
    alone do not tell: a base model and all that were fine-tuned from it have the same.
    """
    if hub_id is None or name == hub_id:
        return hub_id is not None
    folder = Path(name)
    if not (folder / "config.json").is_file():
        return False
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    paths = [folder.absolute().as_posix(), folder.resolve().as_posix()]
    cached = re.findall(r"models--[^/]*--([^/]+)/snapshots", " ".join(paths))
    said = [Path(path).name for path in (*paths, str(config.get("_name_or_path", "")))]
    if hub_id.rpartition("/")[2].lower() not in {one.lower() for one in (*said, *cached)}:
        return False
    known = known_models()
    if hub_id not in known.index:
        return True
    sizes = known.loc[hub_id].drop("parameters")
    return all(config.get(name) == size for name, size in sizes.items())
