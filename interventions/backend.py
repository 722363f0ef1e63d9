"""pyvene, imported without the line that it prints about a package it does not find."""

import contextlib
import io

with contextlib.redirect_stdout(io.StringIO()):
    import pyvene

__all__ = ["pyvene"]
