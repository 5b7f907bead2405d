"""Commands that start this same tailbite in another process, wherever it was imported from.

It may lie in site-packages, in a checkout, in a single file (a zip archive) or in a folder of a system's package. In
the last two no other Python finds it by ``-m tailbite``.
"""

from __future__ import annotations

import os
import sys

__all__ = ["command", "python_module"]

_ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))  # noqa: PTH100, PTH120 - pathlib takes 4 ms to load

# Python puts the current folder first with -c, as "": it may hold a module with the name of one that is imported.
# Where this tailbite is not on the path anyway it comes first, before another version that is installed.
_RUN_MODULE = """\
import sys
del sys.path[0]
if sys.argv[1] not in sys.path:
    sys.path.insert(0, sys.argv[1])
import runpy
runpy.run_module(sys.argv[2], None, "__main__")
"""


def command() -> list[str]:
    """Return the program and arguments that start the tailbite command from any folder."""
    if os.path.isfile(_ROOT) or os.path.exists(os.path.join(_ROOT, "__main__.py")):  # noqa: PTH110, PTH113, PTH118
        return [sys.executable, "-I", _ROOT]
    return [sys.executable, "-m", "tailbite"]


def python_module(name: str) -> list[str]:
    """Return the program and arguments that run a module of tailbite as ``python -m`` would."""
    return [sys.executable, "-c", _RUN_MODULE, _ROOT, name]
