"""JSON has no lone surrogate, whatever bytes a name has, and is otherwise what json.dumps returns."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from tailbite.core.json_text import to_json

ANY = st.text(st.characters(exclude_categories=()), max_size=8) | st.binary(max_size=8).map(
    lambda raw: raw.decode(errors="surrogateescape")
)


@given(st.dictionaries(ANY, ANY | st.lists(ANY)))
def test_it_is_json_of_the_same_value_with_replacements(value: dict[str, object]) -> None:
    text = to_json(value)
    assert text.isascii()
    read = json.loads(text)
    read_text = json.dumps(read, ensure_ascii=False)
    read_text.encode()  # raises for a lone surrogate
    paired = json.loads(json.dumps(value))  # json joins halves of a pair that stand side by side
    expected = json.dumps(paired, ensure_ascii=False).encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    assert len(read) <= len(value)
    if len(read) == len(paired):
        assert read_text == expected


def test_an_escaped_backslash_is_no_surrogate() -> None:
    for text in ("\\udcff", "\\\udcff", "\U0001f600", "a\\\\udcff"):
        assert to_json([text]) == json.dumps([text.replace("\udcff", "�")])
