"""Objects that stand for something that exists once, such as a connection or a lock: they cannot be copied."""

from __future__ import annotations

from typing import NoReturn

__all__ = ["Uncopyable"]


class Uncopyable:
    """A base class whose objects can be neither copied nor pickled: two of them would close the same connection."""

    __slots__ = ()

    def __reduce__(self) -> NoReturn:
        """Refuse, for :mod:`copy` and :mod:`pickle`.

        Raises:
            TypeError: always.
        """
        raise TypeError(f"a {type(self).__name__} cannot be copied or pickled: make another one")
