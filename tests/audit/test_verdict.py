"""A verdict is required by a word, and fails with its reason."""

from __future__ import annotations

import pytest

from tailbite.audit import Verdict, Word


def verdict(word: Word) -> Verdict:
    return Verdict("mine", "", word, "a reason")


@pytest.mark.parametrize(("required", "passing"), [("immune", {Word.IMMUNE}), ("aborts", {Word.IMMUNE, Word.ABORTS})])
def test_only_a_word_as_good_as_the_required_one_passes(required: str, passing: set[Word]) -> None:
    for word in Word:
        if word in passing:
            assert verdict(word).require(required).verdict is word
        else:
            with pytest.raises(AssertionError, match=f"mine is not {required}: {word.value}: a reason"):
                verdict(word).require(required)


def test_another_word_cannot_be_required() -> None:
    with pytest.raises(ValueError, match="'holds' cannot be required; choose immune or aborts"):
        verdict(Word.IMMUNE).require("holds")
