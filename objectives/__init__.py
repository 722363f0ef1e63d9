"""Training objectives on plain tensors.

Nothing here knows about models, tokenizers or interventions: every function takes logits that have
already been picked at the response positions, or whole responses' log-probabilities, and returns a
tensor.
"""

import lazy_loader

# Names are listed in __init__.pyi; each is loaded when it is first used.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
