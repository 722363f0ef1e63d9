"""`python -m benchmarks.agreement`: how far rules, and a judge, agree with hand-labelled answers.

With `--judge local --judge-model MODEL`, or `--judge api`, the judge of refusals is asked too.
"""

import sys

import pandas as pd

from benchmarks.backdoor.case import BACKDOOR
from benchmarks.detectors.labelled import agreement_by_kind
from benchmarks.judges.options import JudgeOptions
from benchmarks.judges.refusals import RefusalJudge
from benchmarks.refusal.case import REFUSAL, judged
from concept_das.cli.parser import run_command


def agreement(judging: JudgeOptions) -> None:
    """Agreement of the rules that tell refusals and hidden goals with answers labelled by hand.

    The answers are hard on purpose (benchmarks/detectors/labelled.py).
    """
    case, labelled = REFUSAL, REFUSAL.rules[0].labelled
    words: dict[str, list[bool | None]] = {
        rule.name: [rule.says(one.text) for one in rule.labelled] for rule in REFUSAL.rules
    }
    verdicts: list[bool | None] = []
    if judging.judge is not None:
        judge = RefusalJudge(judging)
        case = judged(judge)
        verdicts = judge.verdicts([(one.prompt, one.text) for one in labelled])
        words["judge"] = verdicts
    for one, found in ((case, verdicts), (BACKDOOR, [])):
        print(f"{one.title}\n{one.agreements(found).to_string(index=False)}\n")
    kinds = {name: agreement_by_kind(labelled, said) for name, said in words.items()}
    shown = {name: {k: f"{a} of {n}" for k, (a, n) in of.items()} for name, of in kinds.items()}
    print(f"Refusals, by kind of answer\n{pd.DataFrame(shown).to_string()}")


if __name__ == "__main__":
    sys.exit(run_command(agreement, None, "python -m benchmarks.agreement", frozenset()))
