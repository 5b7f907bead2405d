"""Plain English: words and turns that readers must decode, in comments, strings, docstrings and pages.

The rules are those of CONTRIBUTING.md. Code is not prose: identifiers, fenced blocks and text between backticks are
not read.
"""

from __future__ import annotations

import ast
import io
import re
import tokenize
from typing import TYPE_CHECKING

from checks.offence import Offence, parsed, tracked

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["docstring_openings", "turns"]

PAGES = (".md", ".sh", ".service", ".timer", ".yml", ".yaml")
NOT_PROSE = (
    "tests/tools/test_lint.py",
    "docs/data/",
    "docs/figures/",
    "docs/matrix.json",
    "docs/matrix.md",
    "tools/checks/",
    "CONTRIBUTING.md",
)
"""Data, and the two places that have to name the words to avoid."""

TURNS = {
    "say 'again' or 'afresh'": r"anew",
    "say 'read', 'check' or 'handle'": r"heed(s|ed|ing)?",
    "say 'who', or name the person": r"whom|whoever|whomever|whosoever",
    "say 'must' or 'will'": r"shall",
    "say 'without success', 'nothing' or 'zero'": r"in vain|n[oa]ught|aught",
    "say 'available'": r"to be had",
    "say 'as before' or name the usual behaviour": r"as ever",
    "say 'permanently'": r"for good",
    "archaic": r"lest|whence|thereof|therein|wherein|hitherto|henceforth|forthwith|thither|betwixt|ere|nigh",
    "say 'must be' or 'will be'": r"(is|are|was|were) to be (?!found\b)\w+",
    "say 'self-connect happened' or 'the trap works'": r"springs|sprang|sprung"
    r"|(does|do|did|can|must|would|will|may|to)( not)? spring",
    "say 'not visible' or 'could not be inspected'": r"blind(ly|ness)?",
    "say 'apply'": r"(carry|carries|carried|carrying) (\w+ )?out",
    "say 'revert' or 'undo'": r"(take|takes|taken|took|taking) (\w+ )?back",
    "say 'unbind', 'release' or 'return'": r"(give|gives|given|gave|giving) (\w+ )?back",
    "say 'chosen by the kernel'": r"drawn|(kernel|allocator|connect|bind) draws?|draws (a|the|its) (source|port)\w*",
    "say 'inspection' or 'snapshot'": r"a look"
    r"|(one|each|every|cheap|first|second|last|later|two) looks?(?! at| like| up)",
    "say 'subject', 'process' or 'host'": r"patients",
    "say 'package' or 'module'": r"rooms?",
    "say 'architecture', 'project' or 'code base'": r"house",
    "say 'slow path' or 'is handled by the slow path'": r"thought (about|over)|with care",
    "say 'handles'": r"(see|sees|seen|saw) to(?! be| have)",
    "say 'is handled', or name the retry policy": r"(is|are) met(?! by)",
    "say 'is not a valid ...' or 'has no ...'": r"names? no(ne)?|(is|are|was|were) (?-i:none)"
    r"|none of ours|is nothing of",
    "say 'they' or 'their'": r"he|him|his|himself|she|her|hers|herself",
    "say 'system capability' or 'condition'": r"what is so|that is so|it is so",
    "say 'options' or 'arguments'": r"a wish|wishes",
    "say 'independent of'": r"no matter of",
    "say 'surprised'": r"astonished",
    "say 'another user', 'another program' or 'of others'": r"somebody else(?:'s)?|of somebody's",
    "say 'forever'": r"for ever",
    "say 'on average'": r"in the mean",
    "say 'no longer'": r"any ?more(?! than| of)",
    "say 'exactly this', or leave 'very' out": r"(this|that|these|those) very",
    "say 'continue', or name the state": r"(go|goes|went|gone|going) on(?! (lo|stdout|stderr)\b)",
    "say 'is reported', 'is printed' or 'is known'": r"(is|are|was|were)( not| never)? (told|said)|(be|to be) told",
    "say 'inspect' or 'examine'": r"look(s|ed|ing)? into",
    "say 'expensive' or 'slow'": r"dear(er|est)?",
    "say 'its own' or 'your own'": r"one's own|oneself",
    "say 'cannot be pulled', 'cannot be made' or 'is not available'": r"(can|could)(not)? be had",
}
NEGATED_NOUN = re.compile(
    r"(?<![Tt]here )\b(is|are|was|were) no (?!longer\b|more\b|less\b|better\b|worse\b|different\b|further\b|faster\b"
    r"|slower\b|later\b|larger\b|smaller\b|wider\b|matter\b|one\b|way\b|need\b)(?=\w)"
)
"""``X is no Y`` for *X is not a Y*; ``there is no Y`` is plain."""

_TURNS = [(advice, re.compile(rf"\b(?:{pattern})\b", re.IGNORECASE)) for advice, pattern in TURNS.items()]
_PICTURES = re.compile(r"figure|picture|diagram|chart|plot|\bbars?\b|svg|png|arrow|ladder|terminal", re.IGNORECASE)
_OPENINGS = re.compile(r"(What|Which|How|Who|Whom|Whose|Whether|Where|When|Why)\b")


def turns(root: Path) -> Iterator[Offence]:
    """Yield each archaic or riddling turn, with the plain word to use."""
    for path in tracked(root):
        relative = path.relative_to(root).as_posix()
        if relative.startswith(NOT_PROSE):
            continue
        for line, text in _passages(path):
            for message in _faults(text):
                yield Offence("turns", relative, line, message)


def docstring_openings(root: Path) -> Iterator[Offence]:
    """Yield the docstrings, those of attributes too, that open with a question word."""
    for path in tracked(root):
        if path.suffix != ".py":
            continue
        for node in ast.walk(parsed(path)):
            # A text that is a statement of its own documents what stands above it: a module, a function, a variable.
            if not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)):
                continue
            text = node.value.value.strip() if isinstance(node.value.value, str) else ""
            if _OPENINGS.match(text):
                first = text.splitlines()[0]
                relative = path.relative_to(root).as_posix()
                yield Offence("docstrings", relative, node.lineno, f"opens with a question word: {first}")


def _faults(text: str) -> Iterator[str]:
    for advice, pattern in _TURNS:
        for match in pattern.finditer(text):
            if match[0].lower() == "drawn" and _PICTURES.search(text):
                continue
            yield f"{match[0]!r}: {advice}"
    for match in NEGATED_NOUN.finditer(text):
        yield f"'{text[match.start() : match.end() + 12].strip()}': say '{match[1]} not a ...'"


def _passages(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the lines of prose in a file, each with its number."""
    if path.suffix == ".py":
        yield from _python_passages(path.read_text(encoding="utf-8"))
    elif path.suffix in PAGES:
        yield from _page_passages(path.read_text(encoding="utf-8"))
    elif path.name in ("Makefile", "Dockerfile") or path.suffix == ".toml":
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            yield number, _without_code(line)


def _python_passages(source: str) -> Iterator[tuple[int, str]]:
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if _NAME.fullmatch(token.string):
            continue
        if token.type in (tokenize.COMMENT, tokenize.STRING) or token.type == _FSTRING_MIDDLE:
            for offset, line in enumerate(token.string.splitlines()):
                yield token.start[0] + offset, _without_code(line)


def _page_passages(text: str) -> Iterator[tuple[int, str]]:
    fenced = False
    for number, line in enumerate(text.splitlines(), 1):
        if line.lstrip().startswith("```"):
            fenced = not fenced
        elif not fenced and not _QUERY.match(line):
            yield number, _without_code(line)


def _without_code(line: str) -> str:
    return re.sub(r"``.*?``|`[^`]*`|https?://\S+", "", line)


_NAME = re.compile(r"""(["'])[a-z_]+\1""")
"""A string of one word in lower case is a name in code (a key, a label's value), not prose."""
_QUERY = re.compile(r"\s*(- )?(expr|series): ")
"""A line of Prometheus' query language in a file of rules."""
_FSTRING_MIDDLE = getattr(tokenize, "FSTRING_MIDDLE", -1)  # a token of its own since Python 3.12
