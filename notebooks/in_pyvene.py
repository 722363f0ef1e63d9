# %% [markdown]
# # Inside pyvene, with LoReFT beside
#
# The library is built on pyvene. This notebook hands a vector to pyvene, and then trains LoReFT,
# the method of pyvene's sister library pyreft, on the same rows as CDAS.
#
# pyreft's package pins an old transformers; `pip install --no-deps pyreft==0.1.0` keeps yours,
# and is all that the method `loreft` needs.

# %%
import os

import pandas as pd
import torch

from concept_das import (
    ChatFormat,
    evaluate,
    find_method,
    load_model,
    load_vector,
    make_quadruples,
    shipped_instructions,
    split_quadruples,
    steer,
    train_vector,
)
from concept_das.exports import to_pyvene

quick = os.environ.get("NOTEBOOK_SIZE") == "quick"  # the tests' size
loaded = load_model("smollm2-135m")
chat = ChatFormat.of(loaded.tokenizer)

# %% [markdown]
# ## A vector as a pyvene model
#
# `to_pyvene` makes an `IntervenableModel` with one `ClampIntervention` for each block. pyvene
# edits every token that it is not told to leave alone, so a mask protects the chat template's
# prefix.

# %%
vector = load_vector("pirate", loaded)
steered = to_pyvene(vector, loaded.model, "elicit")
list(steered.interventions)

# %%
inputs = chat.prompt("What should I do today?").tensors(loaded.device)
tokens = inputs["attention_mask"]
mask = (tokens.cumsum(dim=1) > vector.prefix_length) & tokens.bool()
_, by_pyvene = steered.generate(
    inputs,
    unit_locations=None,
    intervene_on_prompt=True,
    intervention_additional_kwargs={"position_mask": mask},
    max_new_tokens=30,
    do_sample=False,
)
with steer(loaded.model, vector, direction="elicit"):
    by_steer = loaded.model.generate(**inputs, max_new_tokens=30, do_sample=False)
assert torch.equal(by_pyvene, by_steer)  # token for token
print(loaded.tokenizer.decode(by_pyvene[0, inputs["input_ids"].shape[1] :]))

# %% [markdown]
# The way back is `from_intervenable`: it measures and steers with what pyvene or pyreft trained.
#
# ## CDAS and LoReFT on the same rows
#
# LoReFT learns an edit of the prompt's first and last tokens from response texts, and only
# towards the concept. CDAS learns from the model's own distributions, both ways.

# %%
rows_made, new_tokens = (6, 6) if quick else (24, 24)
rows = make_quadruples(
    loaded,
    chat,
    "Talk like a pirate",
    shipped_instructions(rows_made, seed=1),
    max_new_tokens=new_tokens,
)
train, heldout = split_quadruples(rows, heldout=len(rows) // 4, seed=1)

settings = {"epochs": 1 if quick else 3, "batch_size": 8, "max_response_tokens": new_tokens}
configs = {
    "cdas": find_method("cdas").config(layers="spread", learning_rate=0.02, **settings),
    "loreft": find_method("loreft").config(learning_rate=0.004, **settings),
}
trained = {
    name: train_vector(loaded, chat, train, config=config) for name, config in configs.items()
}
trained["loreft"].vector

# %%
measured = {
    name: evaluate(loaded.model, chat, one.vector, heldout, multipliers=(1.0,)).at(1.0)
    for name, one in trained.items()
}
pd.DataFrame(measured).reindex(
    [
        "elicitation_recovery",
        "kl_side_effect_elicit",
        "suppression_recovery",
        "kl_side_effect_suppress",
    ]
).assign(unit=["share", "nats", "share", "nats"]).round(3)

# %% [markdown]
# Few rows and steps: this shows that both run on the same rows, and no order of merit. Measured
# with more seeds and concepts:
# [results](../results/README.md#blocks-cdas-at-one-block-and-across-blocks).
