"""TOML tables collect every error, and read a wrong value as an empty one."""

from __future__ import annotations

from typing import Any

import pytest

from tailbite.audit.toml_table import Table, raise_all
from tailbite.errors import CatalogueError


def table(**values: Any) -> Table:
    return Table("x.toml", "a.", values, [])


@pytest.mark.parametrize(
    ("read", "value", "empty"),
    [
        ("text", 7, ""),
        ("text", " ", ""),
        ("words", "x", ()),
        ("words", [], ()),
        ("words", [1], ()),
        ("words", ["\0"], ()),
        ("strings", {"x": 1}, {}),
        ("seconds", True, None),
        ("seconds", 0, None),
        ("seconds", 601, None),
        ("pattern", "(", None),
        ("pattern", 1, None),
        ("table", 1, None),
    ],
)
def test_a_wrong_value_is_an_error_and_reads_as_empty(read: str, value: Any, empty: Any) -> None:
    wrong = table(key=value)
    assert getattr(wrong, read)("key") == empty
    assert [(error.file, error.key) for error in wrong.errors] == [("x.toml", "a.key")]


def test_right_values_are_read() -> None:
    right = table(text="x", words=["a", "b"], strings={"x": "y"}, seconds=2, pattern="a+", table={"key": "z"})
    assert right.text("text") == "x"
    assert right.words("words") == ("a", "b")
    assert right.strings("strings") == {"x": "y"}
    assert right.seconds("seconds") == 2.0
    assert right.pattern("pattern") == "a+"
    inner = right.table("table")
    assert inner is not None
    assert inner.text("key") == "z"
    right.finish()
    assert right.errors == []


def test_a_missing_value_is_an_error_unless_it_is_optional() -> None:
    missing = table()
    assert (missing.text("a", default="d"), missing.words("b", optional=True)) == ("d", ())
    assert (missing.strings("c"), missing.seconds("d"), missing.pattern("e")) == ({}, None, None)
    assert missing.table("f", optional=True) is None
    assert missing.errors == []
    missing.text("g")
    missing.words("h")
    missing.table("i")
    assert [error.key for error in missing.errors] == ["a.g", "a.h", "a.i"]


def test_keys_that_are_left_are_errors_with_a_hint() -> None:
    odd = table(sucess="x", zzz=1)
    odd.text("success", default="d")
    odd.finish()
    assert [error.reason for error in odd.errors] == [
        "it is not known; did you mean 'success'?",
        "it is not known; known are success",
    ]


def test_all_errors_are_raised_in_one_flat_list() -> None:
    raise_all([])
    some = CatalogueError("a", "b", "c", (CatalogueError("d", None, "e"),))
    with pytest.raises(CatalogueError) as caught:
        raise_all([some, CatalogueError("f", "g", "h")])
    assert str(caught.value) == "a: b: c\nd: e\nf: g: h"
    assert len(caught.value.others) == 2
