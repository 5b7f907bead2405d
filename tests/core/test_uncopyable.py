"""Objects that exist once are neither copied nor pickled, and say so."""

from __future__ import annotations

import copy
import pickle
from typing import TYPE_CHECKING, Any

import pytest

import tailbite
import tailbite.aio
import tailbite.anyio
from tailbite.core.uncopyable import Uncopyable

if TYPE_CHECKING:
    from collections.abc import Callable


class Once(Uncopyable):
    pass


HERE = ("127.0.0.1", 32246)
EACH: list[Callable[[], Any]] = [
    Once,
    lambda: tailbite.connections(HERE),
    lambda: tailbite.aio.connections(*HERE),
    lambda: tailbite.anyio.connections(*HERE),
    lambda: tailbite.Connector(HERE),
    tailbite.guard,
]


@pytest.mark.parametrize("way", [copy.copy, copy.deepcopy, pickle.dumps], ids=lambda way: way.__name__)
@pytest.mark.parametrize("make", EACH)
def test_a_copy_would_share_what_exists_once(make: Callable[[], Any], way: Callable[[Any], Any]) -> None:
    made = make()
    try:
        with pytest.raises(TypeError, match=f"a {type(made).__name__} cannot be copied or pickled: make another one"):
            way(made)
    finally:
        if isinstance(made, tailbite.Guard):
            made.off()
