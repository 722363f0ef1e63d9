"""What steers, in other tools' formats: pyvene, lm-evaluation-harness, llama.cpp, peft, pyreft.

| format    | clamp           | add             | steers the template prefix | blocks      |
|-----------|-----------------|-----------------|----------------------------|-------------|
| pyvene    | any rank        | any rank        | no, with a position mask   | all         |
| lm-eval   | rank 1          | any rank        | yes                        | all         |
| GGUF      | -               | any rank        | yes                        | all but 0   |

peft takes what the method lora trained and pyreft what loreft trained, exactly. What a format
cannot say is refused with an `InputError`; nothing is approximated.
"""

from concept_das.exports.gguf import from_gguf, to_gguf
from concept_das.exports.lm_eval import to_lm_eval
from concept_das.exports.peft import to_peft
from concept_das.exports.pyreft import from_pyreft, to_pyreft
from concept_das.exports.pyvene import from_pyvene, save_pyvene, to_pyvene

__all__ = [
    "from_gguf",
    "from_pyreft",
    "from_pyvene",
    "save_pyvene",
    "to_gguf",
    "to_lm_eval",
    "to_peft",
    "to_pyreft",
    "to_pyvene",
]
