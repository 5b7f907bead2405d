"""The errors that are worth another attempt, and those that mean a lost connection."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import ssl

import anyio
import pytest

from tailbite.core.address import Endpoint
from tailbite.errors import AddressesError, SelfConnectError, SourcePortError, VerifyError
from tailbite.reconnect.classify import classifier, is_lost_connection, is_transient

HERE = Endpoint("127.0.0.1", 5432)


def numbered(number: int) -> OSError:
    return OSError(number, os.strerror(number))


REFUSED = numbered(errno.ECONNREFUSED)
UNSUPPORTED = numbered(errno.EAFNOSUPPORT)


@pytest.mark.parametrize(
    ("error", "transient"),
    [
        (REFUSED, True),
        (SelfConnectError(HERE, HERE), True),
        (VerifyError("silent", "it said nothing"), True),
        (TimeoutError(), True),
        (numbered(errno.EMFILE), True),
        (numbered(errno.ENETUNREACH), True),
        (numbered(errno.ENOENT), True),  # a Unix socket whose server has not started
        (socket.gaierror(socket.EAI_NONAME, "Name or service not known"), True),
        (socket.gaierror(socket.EAI_AGAIN, "Temporary failure"), True),
        (ssl.SSLError(1, "wrong version number"), True),
        (ssl.SSLCertVerificationError(1, "certificate verify failed"), False),
        (socket.gaierror(socket.EAI_SERVICE, "Servname not supported"), False),
        (numbered(errno.EACCES), False),
        (numbered(errno.EPERM), False),
        (UNSUPPORTED, False),
        (SourcePortError(HERE, HERE), False),
        (TypeError("a mistake"), False),
        (AddressesError("db:1", ()), True),
        (AddressesError("db:1", (UNSUPPORTED, REFUSED)), True),
        (AddressesError("db:1", (UNSUPPORTED, UNSUPPORTED)), False),
    ],
)
def test_while_connecting_nearly_everything_may_be_over_in_a_moment(error: Exception, transient: bool) -> None:
    assert is_transient(error) is transient


@pytest.mark.parametrize(
    ("error", "lost"),
    [
        (numbered(errno.ECONNRESET), True),
        (numbered(errno.EPIPE), True),
        (numbered(errno.ETIMEDOUT), True),
        (numbered(errno.EHOSTUNREACH), True),
        (TimeoutError(), True),
        (EOFError(), True),
        (asyncio.IncompleteReadError(b"", 1), True),
        (anyio.EndOfStream(), True),
        (anyio.BrokenResourceError(), True),
        (ssl.SSLEOFError(8, "EOF occurred in violation of protocol"), True),
        (ssl.SSLCertVerificationError(1, "certificate verify failed"), False),
        (FileNotFoundError(errno.ENOENT, "the user's own"), False),
        (PermissionError(errno.EACCES, "the user's own"), False),
        (socket.gaierror(socket.EAI_NONAME, "another name"), False),
        (ValueError(), False),
        (ExceptionGroup("", [ConnectionResetError(), EOFError()]), True),
        (ExceptionGroup("", [ConnectionResetError(), ValueError()]), False),
        (BaseExceptionGroup("", [ConnectionResetError(), KeyboardInterrupt()]), False),
    ],
)
def test_in_the_users_block_only_a_lost_connection_is_transient(error: BaseException, lost: bool) -> None:
    assert is_lost_connection(error) is lost


def test_exceptions_of_others_are_added_to_the_default() -> None:
    class LibraryError(Exception):
        pass

    for retry in (LibraryError, (LibraryError, KeyError)):
        decide = classifier(retry, is_lost_connection)
        assert decide(LibraryError())
        assert decide(ConnectionResetError())
        assert decide(ExceptionGroup("", [LibraryError()]))
        assert not decide(ExceptionGroup("", [LibraryError(), ValueError()]))
        assert not decide(ValueError())


def test_a_function_replaces_the_default() -> None:
    decide = classifier(lambda error: isinstance(error, KeyError), is_transient)
    assert decide(KeyError())
    assert not decide(REFUSED)


@pytest.mark.parametrize("wrong", [3, "yes", (ValueError, 3)])
def test_anything_else_is_a_mistake(wrong: object) -> None:
    with pytest.raises(TypeError, match="retry must be"):
        classifier(wrong, is_transient)  # type: ignore[arg-type]
