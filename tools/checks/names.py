"""Names: one meaning for each public name, and functions that say of what they do something."""

from __future__ import annotations

import ast
import tomllib
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING

from checks.offence import Offence, module_name, modules, parsed

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["bare_verbs", "homonyms"]

SHELLS = {"sync", "aio", "anyio"}
"""The modules of one package that offer the same functions to callers of three kinds."""

ALLOWED = Path(__file__).with_name("homonyms.toml")
"""Public names that several modules define on purpose, each with its reason."""

BARE_VERBS = {
    *("show", "look", "tell", "keep", "seen", "one", "found", "left", "take", "took", "think", "heed", "see", "say"),
    *("said", "give", "draw", "put", "hear", "hears", "know", "known", "want", "wanted", "own", "word", "end_of"),
}


def homonyms(root: Path) -> Iterator[Offence]:
    """Yield the public top-level names that more than one module of the product defines."""
    allowed = tomllib.loads(ALLOWED.read_text(encoding="utf-8"))
    places = defaultdict(list)
    for relative, path in modules(root, "src"):
        for name, line in _defined(parsed(path)):
            places[name].append((relative, line))
    for name, found in sorted(places.items()):
        if len(found) > 1 and name not in allowed and not _is_shared_by_shells([relative for relative, _ in found]):
            others = ", ".join(module_name(relative) for relative, _ in found)
            for relative, line in found:
                yield Offence("homonyms", relative, line, f"{name} is defined in {others}")
    for name in sorted(allowed):
        if len(places[name]) < 2:
            yield Offence(
                "homonyms", f"tools/checks/{ALLOWED.name}", 0, f"{name} has one meaning now; remove its entry"
            )


def bare_verbs(root: Path) -> Iterator[Offence]:
    """Yield the functions whose whole name is an everyday verb or filler."""
    for relative, path in modules(root, "src", "tools", "bench", "tests"):
        for node in ast.walk(parsed(path)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.strip("_") in BARE_VERBS:
                yield Offence("bare verbs", relative, node.lineno, f"{node.name}() does not say of what")


def _defined(tree: ast.Module) -> Iterator[tuple[str, int]]:
    for node in tree.body:
        names: list[str] = []
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names = [node.name]
        elif isinstance(node, ast.Assign):
            names = [target.id for target in node.targets if isinstance(target, ast.Name)]
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            names = [node.target.id]
        yield from ((name, node.lineno) for name in dict.fromkeys(names) if not name.startswith("_"))


def _is_shared_by_shells(places: list[str]) -> bool:
    """Tell whether the definers are the shells of one package, or modules of commands that click names alike."""
    folders = {Path(place).parent for place in places}
    stems = [Path(place).stem for place in places]
    return len(folders) == 1 and len(set(stems)) == len(stems) and set(stems) <= SHELLS
