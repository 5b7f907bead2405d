"""Size: lines of a file, lines of a function, and the average complexity of the product."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING

from radon.complexity import cc_visit

from checks.offence import Offence, modules, parsed

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["complexity", "long_files", "long_functions"]

FOLDERS = ("src", "tests", "tools", "bench", "deploy")
MOST_LINES_OF_A_FILE = 400
MOST_LINES_OF_A_FUNCTION = 50
MOST_AVERAGE_COMPLEXITY = 3.6

MEASURED_FAST_PATH = {
    ("src/tailbite/guards/program/fast_path.py", "serve"): "one loop for speed, measured by bench/guards.py",
}


def long_files(root: Path) -> Iterator[Offence]:
    """Yield the files with more than 400 lines."""
    for relative, path in modules(root, *FOLDERS):
        lines = len(path.read_text(encoding="utf-8").splitlines())
        if lines > MOST_LINES_OF_A_FILE:
            yield Offence("long files", relative, 0, f"{lines} lines, at most {MOST_LINES_OF_A_FILE}")


def long_functions(root: Path) -> Iterator[Offence]:
    """Yield the functions with more than 50 lines; decorators and docstrings do not count."""
    for relative, path in modules(root, *FOLDERS):
        for node in ast.walk(parsed(path)):
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or node.end_lineno is None:
                continue
            lines = node.end_lineno - node.lineno + 1 - _docstring_lines(node)
            if lines > MOST_LINES_OF_A_FUNCTION and (relative, node.name) not in MEASURED_FAST_PATH:
                message = f"{node.name} has {lines} lines, at most {MOST_LINES_OF_A_FUNCTION}"
                yield Offence("long functions", relative, node.lineno, message)


def _docstring_lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    first = node.body[0]
    if ast.get_docstring(node) is None or first.end_lineno is None:
        return 0
    return first.end_lineno - first.lineno + 1


def complexity(root: Path) -> Iterator[Offence]:
    """Yield one offence if the average cyclomatic complexity (radon's) of the product exceeds 3.6."""
    blocks = [block for _, path in modules(root, "src") for block in cc_visit(path.read_text(encoding="utf-8"))]
    average = sum(block.complexity for block in blocks) / len(blocks)
    if average > MOST_AVERAGE_COMPLEXITY:
        message = f"average complexity {average:.2f}, at most {MOST_AVERAGE_COMPLEXITY}; see `radon cc -s -n C src`"
        yield Offence("complexity", "src", 0, message)
