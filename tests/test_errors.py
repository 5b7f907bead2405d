"""Errors hold data, are what users already catch, and survive pickling."""

from __future__ import annotations

import errno
import pickle

import pytest

from tailbite.core.address import Endpoint
from tailbite.errors import (
    AddressesError,
    GaveUpError,
    NamespaceUnavailable,
    NetlinkError,
    SelfConnectError,
    SourcePortError,
    TailbiteError,
    VerifyError,
)

HERE = Endpoint("127.0.0.1", 32246)


def test_a_self_connect_is_a_refused_connection() -> None:
    error = SelfConnectError(HERE, HERE)
    assert isinstance(error, ConnectionRefusedError)
    assert error.errno == errno.ECONNREFUSED
    assert error.strerror == "Connection refused"
    assert "127.0.0.1:32246 -> 127.0.0.1:32246" in str(error)
    assert "was reset" in str(error)
    assert "left as it is" in str(SelfConnectError(HERE, HERE, aborted=False))


@pytest.mark.parametrize(
    "error",
    [
        SelfConnectError(HERE, HERE),
        SelfConnectError(HERE, HERE, aborted=False),
        SourcePortError(HERE, HERE),
        NamespaceUnavailable(errno.EPERM, "not here"),
        NetlinkError(errno.EPERM, "destroying a socket"),
        AddressesError("db:1", ()),
        GaveUpError("db:1", "max_attempts is 1", (), total=1, seconds=0.5),
        VerifyError("echo", "it sends back what it is sent", verifier="redis", target="db:6379", received=b"PING"),
        VerifyError("not ready", "it is loading its data", verifier="redis"),
    ],
)
@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_every_error_survives_pickling(error: TailbiteError, protocol: int) -> None:
    back = pickle.loads(pickle.dumps(error, protocol))
    assert type(back) is type(error)
    assert str(back) == str(error)
    assert vars(back) == vars(error)
    assert isinstance(back, TailbiteError)


def test_what_retrying_cannot_help_is_no_os_error() -> None:
    assert issubclass(SourcePortError, ValueError)
    assert not issubclass(SourcePortError, OSError)
