"""Vectors in the formats of pyvene, lm-evaluation-harness, llama.cpp, peft and pyreft.

| format    | clamp           | add             | steers the template prefix | blocks      |
|-----------|-----------------|-----------------|----------------------------|-------------|
| pyvene    | any rank        | any rank        | no, with a position mask   | all         |
| lm-eval   | rank 1          | any rank        | yes                        | all         |
| GGUF      | -               | any rank        | yes                        | all but 0   |

peft takes what the method lora trained and pyreft what loreft trained, exactly. Whatever a
format cannot express, such as a vector with several sites, is refused with an `InputError`; nothing
is approximated. `share_comparison` puts a comparison on the hub.
"""

import lazy_loader

# Names are listed in __init__.pyi; each is loaded when it is first used.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
