"""The public face: its names, its types and its page are one thing, and everything in a signature can be imported."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import tailbite

if TYPE_CHECKING:
    from collections.abc import Iterator

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


def test_dir_shows_public_names_only_whatever_has_been_loaded() -> None:
    importlib.import_module("tailbite.connect.sync")
    assert "connect" in vars(tailbite)
    shown = {name for name in dir(tailbite) if not name.startswith("__")}
    assert shown == {*tailbite._HOMES, *tailbite._MODULES}


def test_the_page_lists_every_public_name_and_is_what_the_source_says() -> None:
    assert api.PAGE.read_text() == api.page(), "run `make api`"


@MODULES
def test_every_public_name_is_explained(module: str) -> None:
    for name in api.public_names(module):
        assert api.first_line_of(module, name), f"{module}.{name} has no docstring"


MADE_BY_TAILBITE = {"Connection", "AsyncConnection", "Guard"}
"""Classes that users get and do not make; the docstring of the function that makes one explains the arguments."""

SAME_AS_FUNCTION = {"Connections": "connections"}


def parameters_of(arguments: ast.arguments, skip: int) -> set[str]:
    plain = [*arguments.posonlyargs, *arguments.args][skip:]
    return {each.arg for each in [*plain, *arguments.kwonlyargs, *filter(None, [arguments.vararg])]}


def unexplained(names: set[str], docstring: str) -> set[str]:
    """Return the parameters that a docstring neither lists nor names in its text."""
    listed = {
        name.strip(" *")
        for line in re.findall(r"^ +([\w*, ]+): ", docstring, re.MULTILINE)
        for name in line.split(",")
    }
    return {name for name in names if name not in listed and f"``{name}``" not in docstring}


def parts_with_parameters(module: str, name: str) -> Iterator[tuple[str, set[str], str]]:
    """Yield a public name's function, constructor and methods: name, parameters, docstring."""
    where = api.definition_of(module, name)
    node = api.statements(where.module).get(where.name)
    docstring = api.docstring_after(*where) if node is not None else ""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        yield name, parameters_of(node.args, 0), docstring
    if not isinstance(node, ast.ClassDef):
        return
    is_record = any("dataclass" in ast.unparse(each) for each in node.decorator_list)
    fields = {
        each.target.id for each in node.body if isinstance(each, ast.AnnAssign) and isinstance(each.target, ast.Name)
    }
    if is_record:
        yield name, {field for field in fields if not field.startswith("_")}, docstring
    for method in node.body:
        if not isinstance(method, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        own = ast.get_docstring(method) or ""
        if method.name == "__init__" and name not in MADE_BY_TAILBITE | SAME_AS_FUNCTION.keys():
            yield name, parameters_of(method.args, 1), docstring + own
        elif not method.name.startswith("_"):
            skip = 0 if "staticmethod" in {ast.unparse(each) for each in method.decorator_list} else 1
            yield f"{name}.{method.name}", parameters_of(method.args, skip), own


@MODULES
def test_every_parameter_and_every_method_is_explained(module: str) -> None:
    verifier = api.docstring_after("tailbite.verifiers.verification", "Verifier")
    assert "name, timeout, spends" in verifier
    shared = {"name", "timeout", "spends"} if module == "tailbite.verify" else set()
    faults = []
    for name in api.public_names(module):
        for part, names, docstring in parts_with_parameters(module, name):
            by_loops = part in ("FakeNetwork.open", "FakeNetwork.verify", "FakeNetwork.asynchronous")
            refers = docstring.startswith("See :class:")
            if not docstring:
                faults.append(f"{module}.{part} has no docstring")
            elif not by_loops and not refers and (missing := unexplained(names - shared, docstring)):
                faults.append(f"{module}.{part} does not explain {', '.join(sorted(missing))}")
    assert not faults, "\n".join(faults)


def test_the_reference_has_every_error_and_every_setting_of_a_loop() -> None:
    text = api.PAGE.read_text()
    section = text.partition("### tailbite.connections\n")[2].partition("\n### ")[0]
    settings = api.statements("tailbite.reconnect.arguments")["LoopSettings"]
    assert isinstance(settings, ast.ClassDef)
    names = {
        each.target.id
        for each in settings.body
        if isinstance(each, ast.AnnAssign) and isinstance(each.target, ast.Name)
    }
    assert len(names) > 15
    assert not [name for name in names if f"- `{name}`: " not in section]
    assert "- `GaveUpError`: " in section


@pytest.mark.parametrize(
    ("docstring", "missing"),
    [
        ("Do it.", {"a", "b"}),
        ("Do it.\n\nArgs:\n    a: the first.", {"b"}),
        ("Do ``a``.\n\nArgs:\n    b: it.", set()),
    ],
)
def test_a_parameter_without_explanation_is_noticed(docstring: str, missing: set[str]) -> None:
    assert unexplained({"a", "b"}, docstring) == missing


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
