"""Generator of docs/api.md, the API reference: ``make api``; with ``--check`` it only compares.

Every entry comes from the source: the name's signature, its docstring, its public methods, and the version it came
with (:data:`NEW`). The signatures are read from the source text, because annotations name types that are imported for
type checkers alone; so the list, and the test that uses this module, see what an editor sees.
"""

from __future__ import annotations

import ast
import functools
import importlib
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from docstrings import details_of, inline_markdown

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT: Final = Path(__file__).resolve().parent.parent
PAGE: Final = ROOT / "docs" / "api.md"
MODULES: Final = (
    "tailbite",
    "tailbite.aio",
    "tailbite.anyio",
    "tailbite.audit",
    "tailbite.errors",
    "tailbite.events",
    "tailbite.hooks",
    "tailbite.testing",
    "tailbite.verify",
)
"""The public modules. Every other module is internal."""

FIRST: Final = "0.1"
NEW: Final[dict[str, dict[str, str]]] = {
    "0.2": {
        "tailbite": (
            "Address Connection Connections Delays Guard GuardError Hook LoopSettings Means PortRange Readiness "
            "Retry State Target TargetStatus VerifyReason"
        ),
        "tailbite.aio": "AsyncConnection Connections Stream",
        "tailbite.anyio": "AsyncConnection Connections",
        "tailbite.audit": (
            "Belief BindAttempt Claim Client Driver Evidence Figure Image Limits Observation Output Packet Phase "
            "Recovery Remains StateSpan Stdin Timing Verdict Word audit"
        ),
        "tailbite.errors": "GuardError",
        "tailbite.hooks": "event_name",
        "tailbite.testing": "Act",
        "tailbite.verify": "Banner HTTP MySQL Postgres Redis SMTP SSH SendExpect TLS",
    }
}
"""The names that came with a later version than the first one."""


INTRODUCTION: Final = (
    "The names below are public. Every other module and name is internal, and may change in any release. "
    "`help(tailbite.connections)`, and an editor, show the same text. Times are in seconds unless the text names "
    "another unit. *Since* is the version that a name came with."
)


class Definition(NamedTuple):
    """The place where a name is defined: a module, and the name there."""

    module: str
    name: str


def public_names(module: str) -> list[str]:
    """Return the public names of a module, sorted without regard to case; ``__version__`` is text."""
    names = importlib.import_module(module).__all__
    return sorted((name for name in names if not name.startswith("__")), key=str.lower)


@functools.cache
def parsed(module: str) -> ast.Module:
    """Return the syntax tree of a module of tailbite."""
    path = ROOT / "src" / Path(*module.split("."))
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return ast.parse(file.read_text())


@functools.cache
def imports(module: str) -> dict[str, Definition]:
    """Return the names that a module imports from others, also for type checkers alone."""
    return {
        alias.asname or alias.name: Definition(node.module, alias.name)
        for node in ast.walk(parsed(module))
        if isinstance(node, ast.ImportFrom) and node.module and not node.level
        for alias in node.names
    }


@functools.cache
def statements(module: str) -> dict[str, ast.stmt]:
    """Return what a module itself defines at its top: functions, classes, assigned names."""
    found: dict[str, ast.stmt] = {}
    for node in parsed(module).body:
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                found[name] = node
            case ast.Assign(targets=[ast.Name(id=name)]) | ast.AnnAssign(target=ast.Name(id=name)):
                found[name] = node
    return found


def definition_of(module: str, name: str) -> Definition:
    """Follow imports to the place of a definition; a name of another project stays at its import."""
    while name not in statements(module) and name in imports(module):
        module, name = imports(module)[name]
        if not module.startswith("tailbite"):
            break
    return Definition(module, name)


def docstring_after(module: str, name: str) -> str:
    """Return the docstring of a definition; of an assignment the text that follows it."""
    body = parsed(module).body
    node = statements(module)[name]
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return ast.get_docstring(node) or ""
    following = body[body.index(node) + 1 : body.index(node) + 2]
    match following:
        case [ast.Expr(value=ast.Constant(value=str(text)))]:
            return text
    return ""


def signature(module: str, name: str) -> str:
    """Return the signature of a function or class as it stands in the source, None's annotation left out."""
    node = statements(module)[name]
    match node:
        case ast.ClassDef():
            method = next((each for each in node.body if getattr(each, "name", "") == "__init__"), None)
            if isinstance(method, ast.FunctionDef):
                return _arguments(method.args, skip=1)
            return _fields(node)
        case ast.FunctionDef() | ast.AsyncFunctionDef():
            return _arguments(node.args) + (f" -> {ast.unparse(node.returns)}" if node.returns else "")
    return ""


def _fields(node: ast.ClassDef) -> str:
    """Return the signature of a dataclass, from its own fields and those of the events' base."""
    if not any("dataclass" in ast.unparse(each) for each in node.decorator_list):
        return ""
    parts = []
    for field in node.body:
        if isinstance(field, ast.AnnAssign):
            default = f" = {ast.unparse(field.value)}" if field.value else ""
            if match := re.search(r"default=(.+?)[,)]", default):
                default = f" = {match[1]}"
            parts.append(f"{ast.unparse(field.target)}: {ast.unparse(field.annotation)}{default}")
    return f"({', '.join(parts)})"


def _arguments(arguments: ast.arguments, skip: int = 0) -> str:
    copy = ast.parse(f"def f({ast.unparse(arguments)}): ...").body[0]
    assert isinstance(copy, ast.FunctionDef)
    del copy.args.args[:skip]
    return f"({ast.unparse(copy.args)})"


def since(module: str, name: str) -> str:
    """Return the version that a public name came with."""
    for version, names in NEW.items():
        if name in names.get(module, "").split():
            return version
    return FIRST


def first_sentence(text: str) -> str:
    """Return the beginning of a docstring as one line, with Markdown's code for that of reStructuredText."""
    return inline_markdown(" ".join(text.split("\n\n")[0].split()))


def first_line_of(module: str, name: str) -> str:
    """Return the sentence for a public name."""
    where = definition_of(module, name)
    node = statements(where.module).get(where.name)
    text = docstring_after(*where) if node is not None else ""
    if not text and isinstance(node, ast.Assign | ast.AnnAssign):
        value = node.value.func if isinstance(node.value, ast.Call) else node.value
        if isinstance(value, ast.Name):
            return first_line_of(where.module, value.id)
    return first_sentence(text)


def page() -> str:
    """Return the text of docs/api.md."""
    lines = [
        "# API reference",
        "",
        "<!-- Generated by `make api`: edit the docstrings instead. -->",
        "",
        INTRODUCTION,
    ]
    for module in MODULES:
        introduction = first_sentence(ast.get_docstring(parsed(module)) or "")
        lines += ["", f"## {module}", "", introduction, "", "| name | since | |", "|---|---|---|"]
        for name in public_names(module):
            lines.append(f"| `{name}` | {since(module, name)} | {_cell(first_line_of(module, name))} |")
        for name in public_names(module):
            lines += _entry(module, name)
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    return text.replace("|", r"\|")


def _entry(module: str, name: str) -> list[str]:
    """Return the section about a name; none for what the table says completely."""
    where = definition_of(module, name)
    node = statements(where.module).get(where.name)
    if node is None:
        return []
    text = signature(*where)
    details = details_of(docstring_after(*where))
    members = list(_members(node, name)) if isinstance(node, ast.ClassDef) else []
    if not (text or details or members):
        return []
    lines = ["", f"### {module}.{name}"]
    if text:
        lines += ["", "```text", *_wrapped(name, text), "```"]
    lines += ["", first_line_of(module, name)]
    lines += ["", *details] if details else []
    return [*lines, *members]


def _members(node: ast.ClassDef, name: str) -> Iterator[str]:
    """Yield the values of an enumeration, and the public methods and properties of a class."""
    if any(ast.unparse(base).endswith(("Enum", "Flag")) for base in node.bases):
        yield from ("", "**Values**", "", *_values(node))
    for each in node.body:
        if not isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef) or each.name.startswith("_"):
            continue
        kinds = {ast.unparse(decorator) for decorator in each.decorator_list}
        if "overload" in kinds or any(kind.endswith((".setter", "overload")) for kind in kinds):
            continue
        docstring = ast.get_docstring(each) or ""
        yield from ("", f"#### {name}.{each.name}", "")
        if "property" not in kinds:
            skipped = 0 if "staticmethod" in kinds else 1
            result = f" -> {ast.unparse(each.returns)}" if each.returns else ""
            yield from ("```text", *_wrapped(each.name, _arguments(each.args, skipped) + result), "```", "")
        yield first_sentence(docstring)
        if details := details_of(docstring):
            yield from ("", *details)


def _values(node: ast.ClassDef) -> Iterator[str]:
    for each, after in zip(node.body, [*node.body[1:], None], strict=True):
        match each:
            case ast.Assign(targets=[ast.Name(id=name)], value=value) if name.isupper():
                text = ""
                if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
                    text = f": {first_sentence(str(after.value.value))}"
                shown = f" = `{ast.unparse(value)}`" if isinstance(value, ast.Constant) else ""
                yield f"- `{name}`{shown}{text}"


def _wrapped(name: str, text: str) -> list[str]:
    """Return a signature on one line, or with a line for each parameter."""
    if len(name + text) <= 100:
        return [name + text]
    function = ast.parse(f"def f{text}: ...").body[0]
    assert isinstance(function, ast.FunctionDef)
    parts, given = [], function.args
    plain = given.posonlyargs + given.args
    defaults = [None] * (len(plain) - len(given.defaults)) + list(given.defaults)
    parts += [_parameter(each, default) for each, default in zip(plain, defaults, strict=True)]
    if given.vararg:
        parts.append(f"*{ast.unparse(given.vararg)}")
    elif given.kwonlyargs:
        parts.append("*")
    parts += [_parameter(each, default) for each, default in zip(given.kwonlyargs, given.kw_defaults, strict=True)]
    if given.kwarg:
        parts.append(f"**{ast.unparse(given.kwarg)}")
    end = f") -> {ast.unparse(function.returns)}" if function.returns else ")"
    return [f"{name}(", *(f"    {part}," for part in parts), end]


def _parameter(argument: ast.arg, default: ast.expr | None) -> str:
    text = ast.unparse(argument)
    if default is None:
        return text
    return f"{text} = {ast.unparse(default)}" if argument.annotation else f"{text}={ast.unparse(default)}"


def main() -> int:
    """Write the page, or compare it."""
    made = page()
    if "--check" in sys.argv[1:]:
        if PAGE.read_text() != made:
            print("docs/api.md is not what the source says: run `make api`")
            return 1
        return 0
    PAGE.write_text(made)
    return 0


if __name__ == "__main__":
    sys.exit(main())
