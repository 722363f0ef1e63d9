# %% [markdown]
# # Your own concept
#
# From a sentence that names a concept to a measured vector: the model writes its own training
# rows, a vector is trained on them, and rows that were held out say how well it does. It takes
# about three minutes on two cores.

# %%
import os

from concept_das import (
    ChatFormat,
    Steering,
    evaluate,
    find_method,
    generate_responses,
    load_model,
    make_quadruples,
    shipped_instructions,
    split_quadruples,
    train_vector,
)

CONCEPT = "Talk like a medieval knight"
quick = os.environ.get("NOTEBOOK_SIZE") == "quick"  # the tests' size
rows_made, tokens, epochs = (6, 6, 1) if quick else (40, 24, 3)

loaded = load_model("smollm2-135m")
chat = ChatFormat.of(loaded.tokenizer)

# %% [markdown]
# ## Rows
#
# A row is an instruction without and with the concept, and the model's own answer to each. Look
# at some: if the model cannot do what is asked, there is nothing to learn.

# %%
rows = make_quadruples(
    loaded, chat, CONCEPT, shipped_instructions(rows_made, seed=42), max_new_tokens=tokens
)
train, heldout = split_quadruples(rows, heldout=len(rows) // 4, seed=42)
train[0]

# %% [markdown]
# ## Training
#
# `spread` takes eight blocks. The loss is the Jensen-Shannon divergence between the model with
# the coordinate exchanged and the model under the other prompt, in nats per token; held out, so
# that it shows when to stop.

# %%
config = find_method("cdas").config(
    layers="spread", learning_rate=0.02, epochs=epochs, max_response_tokens=tokens
)
trained = train_vector(loaded, chat, train, heldout, config=config)
vector = trained.vector
vector

# %%
import matplotlib.pyplot as plt
import pandas as pd

history = pd.DataFrame(trained.history)
steps = history.dropna(subset=["loss"])
axes = steps.plot(x="step", y=["loss_elicit", "loss_suppress"], figsize=(6, 2.5))
held = history.dropna(subset=["heldout_loss"])
for colour, direction in (("C0", "elicit"), ("C1", "suppress")):
    label = f"held out, {direction}"
    axes.plot(held["step"], held[f"heldout_{direction}"], "o", color=colour, label=label)
axes.set(xlabel="step", ylabel="nats per token")
axes.legend()
plt.show()

# %% [markdown]
# ## Evaluation
#
# Recovery is the share of the prompt's effect that the vector has on the held-out rows: 1 is all
# of it. The KL on unrelated text is what it changes elsewhere.

# %%
evaluation = evaluate(loaded.model, chat, vector, heldout, multipliers=(0.5, 1.0, 1.5))
evaluation

# %% [markdown]
# ## Answers
#
# To a prompt that was in no row.

# %%
prompt = "Tell me how to start a conversation with someone I do not know at a party."
answers = generate_responses(
    loaded.model,
    chat,
    [prompt] * 3,
    steering=[None, Steering(vector, "elicit"), Steering(vector, "elicit", 1.5)],
    max_new_tokens=tokens,
)
pd.set_option("display.max_colwidth", None)
pd.DataFrame({"answer": answers}, index=["unsteered", "elicited", "elicited at 1.5"])

# %%
vector.save("runs/knight/vector")

# %% [markdown]
# `load_vector("runs/knight/vector", loaded)` reads it again, and
# `vector.push_to_hub("name/knight")` shares it. Next: [inside pyvene](in_pyvene.py).
