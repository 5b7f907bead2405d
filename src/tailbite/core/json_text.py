"""JSON that every reader accepts, of names that others made: files, processes and hosts may have any bytes.

Python keeps bytes that are not UTF-8 as lone surrogates (PEP 383). ``json.dumps`` writes those as they are; RFC 8259,
section 8.2, calls the behaviour of readers unpredictable.
"""

from __future__ import annotations

import json
import re
from typing import Any

__all__ = ["to_json"]

_ESCAPES = re.compile(r"\\ud[89ab]..\\ud[c-f]..|(\\ud[89a-f]..)|\\.")
"""A surrogate pair; a lone surrogate, which is the group; any other escape."""


def to_json(value: Any, **options: Any) -> str:
    """Return ``json.dumps(value, **options)``, in ASCII, with U+FFFD for each lone surrogate."""
    text = json.dumps(value, **options)
    return _ESCAPES.sub(lambda found: r"\ufffd" if found[1] else found[0], text) if r"\ud" in text else text
