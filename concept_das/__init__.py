"""Concept DAS: a learned direction steers a language model towards a concept and away from it."""

import lazy_loader

__version__ = "0.1.0"

# Names are listed in __init__.pyi; each is loaded when it is first used.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
