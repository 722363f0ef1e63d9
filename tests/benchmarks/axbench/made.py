"""Made-up answers of a few methods to 10 instructions for each of 5 concepts, and latents."""

from itertools import product

import numpy as np
import pandas as pd

INSTRUCTIONS = 10
GRIDS = {
    "cdas": (1.0, 2.0, 4.0),
    "reps": (0.5, 1.5),
    "prompt": (1.0,),
    "lora": (1.0,),
    "unsteered": (1.0,),
}
QUALITY = {"cdas": 1.3, "reps": 1.0, "prompt": 1.5, "lora": 0.9, "unsteered": 0.3}
CONCEPTS = (
    "Talk like a pirate",
    "Costs of $5 & <b>bold</b> prices",
    "Musical instruments",
    "Shout",
    "Software",
)


def made_answers() -> pd.DataFrame:
    """Lora does not suppress; reps was not run at 1; some ratings are missing."""
    rng = np.random.default_rng(0)
    records = []
    for method, grid in GRIDS.items():
        directions = ("elicit",) if method == "lora" else ("elicit", "suppress")
        for concept, direction, multiplier, number in product(
            range(len(CONCEPTS)), directions, grid, range(10)
        ):
            mean = QUALITY[method] + 0.3 * np.sin(concept) - 0.3 * np.log(multiplier / 2) ** 2
            ratings = np.abs(np.clip(np.round(mean + 0.6 * rng.standard_normal(3)), 0, 2))
            if direction == "suppress":
                ratings[0] = 2 - ratings[0]
            if number == 7 and concept == 3:
                ratings[1] = np.nan
            records.append(
                {
                    "method": method,
                    "concept_id": concept,
                    "concept_text": CONCEPTS[concept],
                    "direction": direction,
                    "multiplier": multiplier,
                    "input_id": number,
                    "instruction_text": f"Instruction {number} on {concept}?",
                    "text": f"</script> {method} {direction} {multiplier}",
                    "concept": ratings[0],
                    "instruction": ratings[1],
                    "fluency": ratings[2],
                    "judge": "proxy by tiny",
                    "judge_kind": "proxy",
                }
            )
    return pd.DataFrame(records)


def latents() -> pd.DataFrame:
    """Of two methods, as `detection_auroc` takes them."""
    rng = np.random.default_rng(1)
    keys = product(("cdas", "reps"), range(len(CONCEPTS)), ("negative", "positive"), range(8))
    return pd.DataFrame(
        {
            "method": method,
            "concept_id": concept,
            "label": label,
            "score": rng.standard_normal() + (label == "positive"),
        }
        for method, concept, label, _ in keys
    )
