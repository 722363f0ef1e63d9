"""The untouched organism's KL from one harmless prompt to another, mean in nats, as csv.

Needs runs/organisms/refusal and runs/refusal; run it from the checkout.
"""

import json
from pathlib import Path

from benchmarks.organisms import load_organism
from benchmarks.safety.measures import Pair, divergences
from concept_das.data.chat_format import ChatFormat
from concept_das.evaluation.by_strength import WholeModelLogits

if __name__ == "__main__":
    loaded = load_organism("runs/organisms/refusal", dtype="float32")
    chat, logits = ChatFormat.of(loaded.tokenizer), WholeModelLogits(loaded.model)
    harmless = json.loads(Path("runs/refusal/data/prompts.json").read_text())["harmless"]
    print("shift,kl")
    for shift in (1, 7):
        shifted = harmless[shift:] + harmless[:shift]
        pairs = [
            Pair(chat.prompt(a), chat.prompt(b)) for a, b in zip(harmless, shifted, strict=True)
        ]
        found = [next(divergences(logits, [pair], [None]))[0]["first"] for pair in pairs]
        print(f"{shift},{sum(found) / len(found):.2f}")
