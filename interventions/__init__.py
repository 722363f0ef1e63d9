"""Pyvene interventions.

Concept DAS swaps a coordinate (training) and clamps it (inference); the methods that it is compared
with add a direction or null it out.
"""

import lazy_loader

# Names are listed in __init__.pyi; each is loaded when it is first used.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
