"""The methods, by name; one file each.

Every one of them is given the same rows and ends as an `Artifact`, which steers the same way.
"""

import lazy_loader

from concept_das.clash import check_objectives

check_objectives()

# Names are listed in __init__.pyi; each is loaded when it is first used.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
