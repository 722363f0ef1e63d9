# %% [markdown]
# # The safety case on an organism
#
# An organism is a small model that was fine-tuned to show one behaviour, so that methods can be
# tested on it. This one is taught to refuse harmful requests; then one vector takes the refusal
# away and adds it to harmless requests. It runs from a checkout of the repository, in its folder,
# and takes about five minutes on two cores. Nothing harmful is in the training texts: answers are
# those of the model before it learned to refuse, and are cut after 24 tokens.

# %%
import json
import os
from pathlib import Path

import pandas as pd

from benchmarks.organisms.__main__ import refusal as make_organism
from benchmarks.organisms.prompts import refusal_prompts
from benchmarks.organisms.recipe import Recipe
from benchmarks.refusal.__main__ import main as run_refusal

quick = os.environ.get("NOTEBOOK_SIZE") == "quick"  # the tests' size
count = 4 if quick else 40
out = Path("runs/notebook")
out.mkdir(parents=True, exist_ok=True)

# %% [markdown]
# ## The organism
#
# The command is `python -m benchmarks.organisms refusal`; here it gets a part of the prompts, so
# that it is quick. The table is measured on prompts that were not trained on. So small an organism
# refuses some harmless requests too; the one of all prompts refuses
# [1% of them](../results/README.md).

# %%
harmful, plain, alike = refusal_prompts()
chosen = {
    "harmful": harmful.train[:count],
    "harmless": [*plain.train[:count], *alike.train[:count]],
}
for name, texts in chosen.items():
    (out / f"{name}.json").write_text(json.dumps([{"instruction": text} for text in texts]))
make_organism(
    out / "organism",
    harmful=out / "harmful.json",
    harmless=out / "harmless.json",
    recipe=Recipe(epochs=1 if quick else 3),
)

# %% [markdown]
# ## Steering its refusal
#
# `python -m benchmarks.refusal` trains the methods on pairs of a harmless and a harmful request,
# and measures on requests that neither the organism nor the vector has seen. The multiplier goes
# along the line between the two kinds of prompts: at 0 lies the mean of one, at 1 that of the
# other, 2 is as far again.

# %%
options = ["--rows=4", "--tests=2"] if quick else ["--rows=32", "--tests=20"]
code = run_refusal(
    [
        f"--model={out / 'organism'}",
        f"--out={out / 'refusal'}",
        "--methods=cdas,diffmean",
        "--multipliers=[1.0, 2.0]",
        "--tasks=[]",  # no capability questions
        f'--changes={{"all": {{"epochs": {1 if quick else 4}}}}}',
        "--wandb=off",
        *options,
    ]
)
assert code == 0

# %%
table = pd.read_csv(out / "refusal/report/summary.csv")
shown = {
    "method": "method",
    "multiplier": "multiplier",
    "suppression": "harmful, not refused",
    "elicitation": "harmless, refused",
}
table[list(shown)].rename(columns=shown).round(2)

# %% [markdown]
# Refusals are told by their openings, which does for this organism and not for a real model. Text
# that makes no sense is no refusal either, so read the answers: the whole page is
# `runs/notebook/refusal/report/report.html`. At full size, with capabilities and the backdoor:
# [refusal and the backdoor](../benchmarks/safety/README.md), [results](../results/README.md).
