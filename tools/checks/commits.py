"""Commit subjects: imperative, at most 72 characters, one change."""

from __future__ import annotations

import re
import shutil
import subprocess
from typing import TYPE_CHECKING

from checks.offence import Offence

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["fault", "subjects"]

SINCE = "0c924bd666c56547871a5bc52c44d453c1ca505b"
"""The last commit that did not have to follow the rule. The history before it cannot be changed any more."""

MOST = 72
_NOT_IMPERATIVE = re.compile(
    r"(a|an|the|one|it|its|what|which|how|who|when|where|every|all|each|no|only|more|some|this|that)$"
    r"|.*(?<!s)(?<!foc)(?<!acce)s$|.*(?<!emb)(?<!ne)(?<!fe)(?<!se)(?<!spe)(?<!exce)(?<!proce)ed$|.*(?<!br)(?<!p)ing$",
    re.IGNORECASE,
)
_PREFIX = re.compile(r"^[\w./-]+(?:, [\w./-]+)*: ")


def fault(subject: str) -> str | None:
    """Return the rule that a subject breaks, or None.

    >>> fault("Handle common connects in a fast path") is None
    True
    """
    if len(subject) > MOST:
        return f"{len(subject)} characters, at most {MOST}"
    if ";" in subject or subject.endswith("."):
        return "one change in one phrase, without ';' and without a full stop"
    prefix = _PREFIX.match(subject)
    rest = subject[prefix.end() :] if prefix else subject
    word = (re.match(r"[\w'-]+", rest) or [""])[0]
    if not word or _NOT_IMPERATIVE.match(word):
        return f"open with an imperative verb, not with {word!r}"
    if prefix is None and not word[0].isupper():
        return "open with a capital letter"
    return None


def subjects(root: Path) -> Iterator[Offence]:
    """Yield the commits since the rule was made whose subjects break it; none where there is no history."""
    for commit, subject in _log(root):
        broken = fault(subject)
        if broken:
            yield Offence("commits", commit, 0, f"{subject!r}: {broken}")


def _log(root: Path) -> Iterator[tuple[str, str]]:
    if shutil.which("git") is None or not (root / ".git").exists():
        return
    command = ["git", "-C", str(root), "log", "--no-merges", "--format=%h%x09%s", f"{SINCE}..HEAD"]
    result = subprocess.run(command, check=False, capture_output=True, text=True)
    if result.returncode == 0:  # otherwise the commit is unknown here: a shallow clone
        yield from (tuple(line.split("\t", 1)) for line in result.stdout.splitlines())  # type: ignore[misc]
