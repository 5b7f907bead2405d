"""Catalogue files: all of ours are right, and errors in another are reported by file, key and reason."""

from __future__ import annotations

import pickle
import sys
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailbite.audit.catalogue import HOME, CatalogueEntry, CatalogueError, load_entries, parse_entry
from tailbite.audit.client import Stdin

GOOD = """
name = "mine"
groups = ["own"]
command = ["mine", "{host}", "{port}"]
install = "apt: mine"

[installed]
programs = ["mine"]
"""
FILE = Path("mine.toml")


def test_every_file_of_the_package_is_right_and_has_its_clients_name() -> None:
    files = [file.name for file in HOME.iterdir()]
    entries = load_entries(["all"])
    assert len(entries) == len(files) >= 26
    assert {entry.source.name for entry in entries} == {f"{entry.name}.toml" for entry in entries}


def test_a_group_a_name_and_a_file_are_found_and_doubles_are_one(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(GOOD)
    names = [entry.name for entry in load_entries(["redis", "redis-cli", str(tmp_path / "mine.toml"), str(tmp_path)])]
    assert "mine" in names
    assert names.count("redis-cli") == 1
    assert {"redis-cli", "redis-py"} <= set(names)


def test_a_name_twice_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "other.toml").write_text(GOOD.replace('"mine"\ngroups', '"telnet"\ngroups'))
    with pytest.raises(CatalogueError, match=r"name: 'telnet' is also the name in .*telnet\.toml"):
        load_entries(["telnet", str(tmp_path)])


@pytest.mark.parametrize(
    ("old", "new", "key", "reason"),
    [
        ('name = "mine"', 'name = "My Client"', "name", "'My Client' must be lower-case letters"),
        ('name = "mine"', "name = 7", "name", "it must be text"),
        ('name = "mine"', "", "name", "it is missing"),
        ('groups = ["own"]', 'groups = ["all"]', "groups", "'all' is every client"),
        ('groups = ["own"]', 'groups = "own"', "groups", "it must be a list of texts"),
        ('"{port}"]', "]", "command", "{port} stands nowhere"),
        ('"{port}"]', '"{port}\\u0000"]', "command", "it contains a NUL character"),
        ("install =", "stdin = 'loud'\ninstall =", "stdin", "'loud' must be one of silent, empty"),
        ("install =", "sucess = 'x'\ninstall =", "sucess", "it is not known; did you mean 'success'?"),
        ("install =", "success = '('\ninstall =", "success", "it is not a valid regular expression"),
        ('programs = ["mine"]', "", "installed.programs", "say what is needed"),
        ('programs = ["mine"]', 'program = "mine"', "installed.programs", "say what is needed"),
        ("install =", "differs = 7\ninstall =", "differs", "it must be text"),
        ("[installed]", "[limits]\ndial = -1\n[installed]", "limits.dial", "it must be a number of seconds"),
        ("[installed]", "[limits]\nwach = 1\n[installed]", "limits.wach", "did you mean 'watch'?"),
        ("[installed]", "[driver]\nevery = 1\n[installed]", "driver.command", "it is missing"),
        ("[installed]", "[files]\n'../x' = 'y'\n[installed]", "files.../x", "it must lie in the scratch folder"),
        ("[installed]", "[files]\n'/x' = 'y'\n[installed]", "files./x", "it must lie in the scratch folder"),
        ("[installed]", "[environment]\nX = 1\n[installed]", "environment", "it must be a table of texts"),
    ],
)
def test_an_error_names_file_key_and_reason(old: str, new: str, key: str, reason: str) -> None:
    text = GOOD.replace(old, new)
    assert text != GOOD
    with pytest.raises(CatalogueError) as caught:
        parse_entry(text, FILE)
    assert (caught.value.file, caught.value.key) == ("mine.toml", key)
    assert reason in caught.value.reason
    assert str(caught.value).startswith(f"mine.toml: {key}: ")
    assert caught.value.others == () or key == "installed.programs"
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


def test_all_errors_of_a_file_and_of_a_folder_are_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(CatalogueError) as caught:
        parse_entry("title = 7\nsucess = 'x'\n", FILE)
    keys = [error.key for error in (caught.value, *caught.value.others)]
    assert keys == ["name", "groups", "command", "title", "installed", "install", "sucess"]
    assert len(str(caught.value).splitlines()) == len(keys)
    for name in ("one", "two"):
        (tmp_path / f"{name}.toml").write_text("name = 'X'\n")
    with pytest.raises(CatalogueError) as caught:
        load_entries([str(tmp_path), "no-such-client"])
    told = str(caught.value)
    assert told.count("one.toml: ") == told.count("two.toml: ") == 5
    assert "no-such-client" in told
    assert str(pickle.loads(pickle.dumps(caught.value))) == told


def test_what_is_no_toml_or_not_there_is_an_error_of_the_file(tmp_path: Path) -> None:
    with pytest.raises(CatalogueError, match="it is not valid TOML"):
        parse_entry("name = ", FILE)
    with pytest.raises(CatalogueError, match="No such file"):
        load_entries([str(tmp_path / "none.toml")])
    with pytest.raises(CatalogueError, match=r"there is no \*\.toml file"):
        load_entries([str(tmp_path)])
    (tmp_path / "bytes.toml").write_bytes(b"\xff")
    with pytest.raises(CatalogueError, match="it is not UTF-8"):
        load_entries([str(tmp_path)])
    with pytest.raises(CatalogueError, match="did you mean 'postgres'"):
        load_entries(["postgre"])


values = st.recursive(
    st.booleans() | st.integers(-5, 5) | st.sampled_from(["x", "{port}", "(", "silent", "../x", ""]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["command", "every", "x"]), inner),
    max_leaves=5,
)
KEYS = ["name", "groups", "command", "install", "installed", "files", "driver", "limits", "stdin", "success"]


def toml(value: object) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f'"{key}" = {toml(item)}' for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    return str(value).lower() if isinstance(value, bool | int) else f"'{value}'"


@given(st.dictionaries(st.sampled_from(KEYS), values))
def test_any_toml_is_an_entry_or_a_catalogue_error(changed: dict[str, object]) -> None:
    table = {**tomllib.loads(GOOD), **changed}
    text = "\n".join(f"{key} = {toml(value)}" for key, value in table.items())
    try:
        entry = parse_entry(text, FILE)
    except CatalogueError as error:
        assert "\n" not in error.reason.replace("it is not valid TOML: ", "") or error.key is None
    else:
        assert isinstance(entry, CatalogueEntry)


def test_a_client_of_python_itself_is_found_with_this_interpreter() -> None:
    (entry,) = load_entries(["python-socket"])
    client = entry.find()
    assert client is not None
    assert client.command[0] == sys.executable
    assert client.version == ".".join(map(str, sys.version_info[:3]))
    assert client.stdin is Stdin.SILENT
    assert client.in_scratch


def test_a_client_that_is_not_installed_is_not_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert parse_entry(GOOD, FILE).find() is None
    for line in ("python = 'no-such-thing'", "node = 'no-such-thing'", "files = ['/no/such/file', '{peers}/x']"):
        assert parse_entry(GOOD.replace('programs = ["mine"]', line), FILE).find() is None
    (tmp_path / "x").touch()
    monkeypatch.setenv("TAILBITE_PEERS", str(tmp_path))
    text = GOOD.replace('programs = ["mine"]', "files = ['/no/such/file', '{peers}/x']").replace("{host}", "{file}")
    client = parse_entry(text, FILE).find()
    assert client is not None
    assert client.command[1] == str(tmp_path / "x")


def test_a_name_of_the_catalogue_goes_before_a_folder_of_that_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("redis", "mine"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.toml").write_text(GOOD, encoding="utf-8")
    assert {entry.name for entry in load_entries(["mine"])} == {entry.name for entry in load_entries(["./redis"])}
    assert len(load_entries(["redis"])) > 1
    for word in ("", "none"):
        with pytest.raises(CatalogueError, match="is neither a client nor a group"):
            load_entries([word])
