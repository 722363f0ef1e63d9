# %% [markdown]
# # What a vector does to the distribution
#
# CDAS trains the steered model to predict as the model does under the other prompt. Here that is
# seen token by token: how far apart the two distributions are, with and without the vector, in
# both directions, and where the coordinate lies that is exchanged.

# %%
import matplotlib.pyplot as plt
import pandas as pd
import torch

from concept_das import ChatFormat, generate_responses, load_model, load_vector, steer
from objectives import jensen_shannon, kl_teacher_student

loaded = load_model("smollm2-135m")
model, tokenizer = loaded.model, loaded.tokenizer
vector = load_vector("pirate", loaded)
chat = ChatFormat.of(tokenizer)

NEUTRAL = chat.prompt("What should I do today?")
CONCEPT = chat.prompt("What should I do today? Talk like a pirate.")

# %% [markdown]
# ## Divergence, token by token
#
# Towards the concept (elicit): the base is the neutral prompt, the goal is the model under the
# pirate prompt, on the pirate's answer. Away from it (suppress) the two change places. The
# Jensen-Shannon divergence to the goal is 0 where the distributions agree, and at most ln 2 =
# 0.69 nats.


# %%
@torch.no_grad()
def logits(prompt, answer):
    """Logits [tokens of the answer, vocab] after a prompt."""
    ids = torch.tensor([[*prompt.ids, *answer]], device=loaded.device)
    return model(ids).logits[0, -len(answer) - 1 : -1]


def answer_of(prompt):
    """The model's own greedy answer, as token ids."""
    (text,) = generate_responses(model, chat, [prompt], max_new_tokens=28)
    return chat.text_ids(text)


found = {}
for direction, base, goal in (("elicit", NEUTRAL, CONCEPT), ("suppress", CONCEPT, NEUTRAL)):
    answer = answer_of(goal)
    there, plain = logits(goal, answer), logits(base, answer)
    with steer(model, vector, direction=direction):
        steered = logits(base, answer)
    found[direction] = pd.DataFrame(
        {
            "token": [tokenizer.decode([token]) for token in answer],
            "unsteered": jensen_shannon(plain, there),
            "steered": jensen_shannon(steered, there),
        }
    )

figure, panels = plt.subplots(2, 1, figsize=(9, 6), layout="constrained")
for panel, (direction, table) in zip(panels, found.items(), strict=True):
    panel.plot(table["unsteered"], color="0.6", marker=".", label="unsteered")
    panel.plot(table["steered"], color="C0", marker=".", label="steered")
    panel.set_xticks(
        range(len(table)), table["token"].map(repr), rotation=60, ha="right", fontsize=7
    )
    panel.set(title=f"{direction}: JSD to the model under the other prompt", ylabel="nats")
    panel.legend()
plt.show()

# %%
pd.DataFrame(
    {direction: table.mean(numeric_only=True) for direction, table in found.items()}
).round(3)

# %% [markdown]
# ## The coordinate, token by token
#
# One of the eight directions, after block 15. The dashed lines are the factors that steering sets
# the coordinate to at every token of prompt and answer. The shaded tokens are the chat template's
# prefix, which is left alone. The last token, with a ring, is the one at which training reads the
# source's coordinate.


# %%
@torch.no_grad()
def coordinates(prompt, layer):
    """The coordinate at each token of a prompt, unsteered."""
    site = next(site for site in vector.sites if site.layer == layer)
    ids = torch.tensor([prompt.ids], device=loaded.device)
    hidden = model(ids, output_hidden_states=True).hidden_states[layer + 1][0]
    return (hidden.float() @ site.weight.T.to(hidden.device)).squeeze(1).tolist(), site


figure, panels = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained", sharey=True)
for panel, name, prompt in zip(panels, ("neutral", "concept"), (NEUTRAL, CONCEPT), strict=True):
    values, site = coordinates(prompt, 15)
    panel.axvspan(-0.5, vector.prefix_length - 0.5, color="0.93")
    panel.plot(values, ".", color="C0")
    panel.plot(len(values) - 1, values[-1], "o", ms=9, mfc="none", color="C0", label="last token")
    panel.axhline(float(site.positive_factor), color="C3", ls="--", label="factor to elicit")
    panel.axhline(float(site.negative_factor), color="C2", ls="--", label="factor to suppress")
    panel.set(title=f"the {name} prompt", xlabel="token")
panels[0].set_ylabel("coordinate")
spread = [abs(v) for v in values[vector.prefix_length :]]
panels[0].set_ylim(-1.5 * max(spread), 1.5 * max(spread))  # the first tokens lie far outside
panels[0].legend(loc="upper left")
plt.show()

# %% [markdown]
# ## Elsewhere
#
# On a text that has nothing to do with pirates the vector should change little: KL(unsteered ||
# steered), in nats per token, by multiplier.

# %%
question = chat.prompt("What is the boiling point of water at sea level?")
answer = chat.text_ids("Water boils at 100 degrees Celsius, or 212 degrees Fahrenheit.")
plain = logits(question, answer)
rows = []
for multiplier in (0.5, 1.0, 1.5):
    row = {"multiplier": multiplier}
    for direction in ("elicit", "suppress"):
        with steer(model, vector, direction=direction, multiplier=multiplier):
            row[direction] = float(kl_teacher_student(logits(question, answer), plain).mean())
    rows.append(row)
pd.DataFrame(rows).round(3)
