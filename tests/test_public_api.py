"""The public face: its names, its types and its page are one thing, and everything in a signature can be imported."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import tailbite

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tools"))
import api  # noqa: E402 - tools is not a package

MODULES = pytest.mark.parametrize("module", api.MODULES)

FOR_LOOPS = {
    # Methods of tailbite.testing.FakeNetwork that only the loops call.
    "tailbite.dial.options.Options",
    "tailbite.reconnect.network.AsyncNetwork",
    "tailbite.reconnect.network.Link",
}


def test_the_table_and_the_imports_for_type_checkers_are_the_same() -> None:
    typed = {
        name: where.module
        for name, where in api.imports("tailbite").items()
        if where.module not in ("tailbite", "__future__", "importlib", "tailbite._version")
    }
    assert typed == tailbite._HOMES
    modules = {name for name, where in api.imports("tailbite").items() if where.module == "tailbite"}
    assert modules == set(tailbite._MODULES)
    assert {f"tailbite.{name}" for name in tailbite._MODULES} | {"tailbite"} == set(api.MODULES)
    assert list(tailbite._HOMES) == sorted(tailbite._HOMES)


@MODULES
def test_every_public_name_can_be_used_and_dir_knows_it(module: str) -> None:
    loaded = importlib.import_module(module)
    for name in api.public_names(module):
        assert getattr(loaded, name) is not None
        assert name in {*dir(loaded), *loaded.__all__}


def test_the_page_lists_every_public_name_and_is_what_the_source_says() -> None:
    assert api.PAGE.read_text() == api.page(), "run `make api`"


@MODULES
def test_every_public_name_is_explained(module: str) -> None:
    for name in api.public_names(module):
        assert api.first_line_of(module, name), f"{module}.{name} has no docstring"


def public_definitions() -> set[api.Definition]:
    return {api.definition_of(module, name) for module in api.MODULES for name in api.public_names(module)}


def annotations_of(node: ast.stmt) -> list[ast.expr]:
    """Return the annotations of a public function, of a class's public methods and fields, or an alias's value."""
    match node:
        case ast.FunctionDef() | ast.AsyncFunctionDef():
            given = node.args
            each = [*given.posonlyargs, *given.args, *given.kwonlyargs]
            each += [star for star in (given.vararg, given.kwarg) if star]
            return [argument.annotation for argument in each if argument.annotation] + (
                [node.returns] if node.returns else []
            )
        case ast.ClassDef():
            found = []
            for part in node.body:
                name = getattr(part, "name", "") or getattr(getattr(part, "target", None), "id", "")
                if not name.startswith("_") or name in ("__call__", "__enter__", "__aenter__", "__next__"):
                    found += annotations_of(part)
            return found
        case ast.AnnAssign(annotation=annotation, value=value):
            is_alias = "TypeAlias" in ast.unparse(annotation)
            return [value] if is_alias and value is not None else [annotation]
    return []


def names_in(expression: ast.expr) -> set[str]:
    """Return the names an annotation mentions, also in its text."""
    names: set[str] = set()
    for node in ast.walk(expression):
        if isinstance(node, ast.Name):
            names.add(node.id)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            try:
                names |= names_in(ast.parse(node.value, mode="eval").body)
            except SyntaxError:
                pass
    return names


@MODULES
def test_every_type_in_a_public_signature_is_importable_from_a_public_module(module: str) -> None:
    public = public_definitions()
    hidden = {}
    for name in api.public_names(module):
        where = api.definition_of(module, name)
        node = api.statements(where.module).get(where.name)
        for expression in annotations_of(node) if node is not None else []:
            for mentioned in names_in(expression):
                found = api.definition_of(where.module, mentioned)
                is_ours = found.module.startswith("tailbite") and found.name in api.statements(found.module)
                if is_ours and found not in public and not found.name.startswith("_"):
                    hidden[f"{found.module}.{found.name}"] = f"{module}.{name}"
    assert {name: where for name, where in hidden.items() if name not in FOR_LOOPS} == {}


def test_what_a_type_checker_sees_is_typed() -> None:
    """A small program that names the types; mypy, strict, must know every one of them."""
    program = """
import tailbite
import tailbite.aio, tailbite.anyio, tailbite.audit, tailbite.events, tailbite.testing, tailbite.verify
from typing import Unpack, assert_type

def loop(address: tailbite.Address, **settings: Unpack[tailbite.LoopSettings]) -> tailbite.Connections:
    return tailbite.connections(address, **settings)
def hook(event: tailbite.events.Event) -> None:
    target: tailbite.Target = event.target
delays: tailbite.Delays = tailbite.Backoff()
listener: tailbite.Hook = hook
held: tailbite.Guard = tailbite.guard()
connector = tailbite.Connector(("db", 1), hooks=[hook], backoff=delays)
assert_type(connector.state, tailbite.State)
act: tailbite.testing.Act = tailbite.testing.Refuse()
stream: tailbite.aio.Connections = tailbite.aio.connections("db", 1)
reason: tailbite.VerifyReason = "echo"
status: tailbite.TargetStatus = tailbite.wait("db:1")[0].status
limits: tailbite.audit.Limits
"""
    wrong = """
import tailbite
tailbite.connections(42)
tailbite.connections(("h",))
tailbite.connections(("h", 1), tls=True)
tailbite.connections(("h", 1), timeout="5")
tailbite.wait(42)
tailbite.Connector(("h", 1), backoff=5)
"""
    errors = [checked(text) for text in (program, wrong)]
    assert errors[0] == []
    assert [int(line.split(":")[1]) for line in errors[1] if ": error:" in line] == [3, 4, 5, 6, 7, 8]


def checked(text: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--config-file=/dev/null", "--cache-dir=/dev/null", "-c", text],
        capture_output=True,
        text=True,
        cwd="/",
    )
    return [line for line in done.stdout.splitlines() if ": error:" in line]


def test_import_tailbite_loads_next_to_nothing() -> None:
    program = "import sys; before = set(sys.modules); import tailbite; print(*sorted(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) - {"__future__"} == {"tailbite", "tailbite._version"}


def test_names_of_the_first_release_warn_and_unknown_names_are_errors() -> None:
    for old, new in tailbite._RENAMED.items():
        with pytest.warns(DeprecationWarning, match=f"tailbite.{old} is now called tailbite.{new}"):
            assert getattr(tailbite, old) is getattr(tailbite, new)
    with pytest.warns(DeprecationWarning, match="event_name"):
        assert tailbite.hooks.word is tailbite.hooks.event_name
    with pytest.raises(AttributeError, match="no attribute 'connection'"):
        tailbite.connection  # noqa: B018
