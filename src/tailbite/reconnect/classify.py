"""The errors that are worth another attempt, and those that end the loop.

While connecting, nearly everything may be over in a moment, so every ``OSError`` is transient: refused, reset,
unreachable, timed out, too many open files, a socket file that is not there yet, a self-connect, a refused peer, and
also a name that does not resolve, because in containers names appear together with their servers. An error that
no later attempt can cure is fatal: a certificate that is refused, arguments that make no sense (an unknown service
name, an address family this system lacks, a source address with the destination's port), no permission.

In the user's block only a lost connection is transient: ``ConnectionError``, ``TimeoutError``, ``EOFError`` (so
``asyncio.IncompleteReadError`` too), TLS errors other than a refused certificate, anyio's stream errors, and an
``OSError`` with an errno of the network. A ``FileNotFoundError`` there is the user's own, and propagates. A group is
transient if everything in it is.
"""

from __future__ import annotations

import errno
import socket
import sys
from typing import TYPE_CHECKING, Any, TypeAlias

from tailbite.errors import AddressesError, TailbiteError

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Retry", "classifier", "is_lost_connection", "is_transient"]

Retry: TypeAlias = "Callable[[BaseException], bool] | type[BaseException] | tuple[type[BaseException], ...] | None"
"""The argument ``retry``: a function that returns True for another attempt (or raises an error of its own to end the
loop with), or the exceptions that are transient in addition to the default ones."""

_FATAL_NUMBERS = frozenset(
    {
        *(errno.EACCES, errno.EPERM, errno.EAFNOSUPPORT, errno.EPROTONOSUPPORT, errno.EPROTOTYPE),
        *(errno.EINVAL, errno.EBADF, errno.ENOTSOCK, errno.EOPNOTSUPP, errno.ENAMETOOLONG, errno.ENOTDIR),
    }
)
_FATAL_LOOKUPS = frozenset(
    getattr(socket, name)
    for name in ("EAI_SERVICE", "EAI_FAMILY", "EAI_SOCKTYPE", "EAI_BADFLAGS", "EAI_BADHINTS", "EAI_PROTOCOL")
    if hasattr(socket, name)
)
_LOST_NUMBERS = frozenset(
    {
        *(errno.ETIMEDOUT, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ENETDOWN, errno.ENETRESET),
        *(errno.ENOTCONN, errno.ESHUTDOWN, getattr(errno, "EHOSTDOWN", errno.EHOSTUNREACH), errno.EPROTO),
    }
)


def classifier(retry: Retry, default: Callable[[BaseException], bool]) -> Callable[[BaseException], bool]:
    """Return the function that decides, made from the user's ``retry`` and the default.

    Raises:
        TypeError: ``retry`` has an unsupported type.
    """
    if retry is None:
        return default
    kinds: Any = retry if isinstance(retry, tuple) else (retry,)
    if all(isinstance(kind, type) and issubclass(kind, BaseException) for kind in kinds):
        return lambda error: _is_one_of(error, kinds) or default(error)
    if callable(retry) and not isinstance(retry, type):
        return retry
    raise TypeError(f"retry must be a function, an exception type or a tuple of them, not {retry!r}")


def _is_one_of(error: BaseException, kinds: tuple[type[BaseException], ...]) -> bool:
    if isinstance(error, BaseExceptionGroup) and not isinstance(error, kinds):
        return all(_is_one_of(inner, kinds) for inner in error.exceptions)
    return isinstance(error, kinds)


def is_transient(error: BaseException) -> bool:
    """Tell whether an error met while connecting may be over at the next attempt (the default)."""
    if isinstance(error, AddressesError):
        return not error.errors or any(is_transient(inner) for inner in error.errors)
    if not isinstance(error, OSError) or _is_refused_certificate(error):
        return False
    if isinstance(error, socket.gaierror):
        return error.errno not in _FATAL_LOOKUPS
    if isinstance(error, (TailbiteError, *_of_module("ssl", "SSLError"))):
        return True  # an SSLError's errno is not one of the system's
    return error.errno not in _FATAL_NUMBERS


def is_lost_connection(error: BaseException) -> bool:
    """Tell whether an error in the user's block means that the connection is gone (the default)."""
    if isinstance(error, BaseExceptionGroup):
        return all(is_lost_connection(inner) for inner in error.exceptions)
    if isinstance(error, ConnectionError | TimeoutError | EOFError):
        return True
    if isinstance(error, _of_module("anyio", "BrokenResourceError", "EndOfStream", "IncompleteRead")):
        return True
    if isinstance(error, _of_module("ssl", "SSLError")):
        return not _is_refused_certificate(error)
    return isinstance(error, OSError) and not isinstance(error, socket.gaierror) and error.errno in _LOST_NUMBERS


def _is_refused_certificate(error: BaseException) -> bool:
    return isinstance(error, _of_module("ssl", "SSLCertVerificationError"))


def _of_module(name: str, *classes: str) -> tuple[type[BaseException], ...]:
    """Return exceptions of a module without importing it: if it is not loaded, it raised nothing."""
    module = sys.modules.get(name)
    return tuple(getattr(module, each) for each in classes) if module is not None else ()
