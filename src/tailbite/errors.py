"""The exceptions of the library, each of which is also an exception that users already catch.

::

    TailbiteError
    ├── SelfConnectError       (ConnectionRefusedError)  the socket was connected to itself: no server listens
    ├── SourcePortError        (ValueError)              the source port asked for is the destination's
    ├── VerifyError            (ConnectionError)         the peer is not the server that was asked for
    ├── AddressesError         (ConnectionError)         a name has several addresses, and each of them failed
    ├── GaveUpError            (ConnectionError)         a reconnecting loop has used up its attempts or its time
    ├── CatalogueError         (ValueError)              a file of clients to audit is not valid
    ├── NotReadyError          (TimeoutError)            servers that were waited for did not become ready
    ├── NamespaceUnavailable   (OSError)                 this system does not let us make a namespace
    ├── GuardError             (RuntimeError)            guard() could not be switched on
    ├── FirewallError          (OSError)                 a firewall command failed, or was not found
    └── NetlinkError           (OSError)                 the kernel answered a netlink request with an error

Errors hold data; ``str()`` makes the sentence. All of them survive pickling.
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    from typing import Protocol

    class _Endpoint(Protocol):
        """A :class:`tailbite.Endpoint`; this module lies below the one that has it."""

        @property
        def host(self) -> str: ...
        @property
        def port(self) -> int: ...

    class _FailedAttempt(Protocol):
        """A :class:`tailbite.reconnect.events.FailedAttempt`."""

        @property
        def error(self) -> BaseException | None: ...

    class _Readiness(Protocol):
        """A :class:`tailbite.Readiness`; this module lies below the one that has it."""

        @property
        def ready(self) -> bool: ...


__all__ = [
    "AddressesError",
    "CatalogueError",
    "FirewallError",
    "GaveUpError",
    "GuardError",
    "NamespaceUnavailable",
    "NetlinkError",
    "NotReadyError",
    "SelfConnectError",
    "SourcePortError",
    "TailbiteError",
    "VerifyError",
    "VerifyReason",
]

VerifyReason: TypeAlias = Literal["silent", "closed", "echo", "protocol", "not ready"]
"""The reason a verifier refused a peer: it sent nothing in time, it closed or reset the connection, it sent back the
bytes it was sent, it speaks another protocol, or it is the right server and answers that it cannot serve yet."""


class TailbiteError(Exception):
    """The root of tailbite's exceptions."""


class SelfConnectError(TailbiteError, ConnectionRefusedError):
    """A TCP socket was connected to itself, and has been dropped.

    It is a :class:`ConnectionRefusedError` with ``errno == ECONNREFUSED``, because nobody listens on that port. Every
    loop that retries on :class:`OSError` stays correct.

    Attributes:
        local: the socket's own address and port.
        remote: the address and port it was connected to: the same, except for how the address is written.
        aborted: True if the connection was reset (RST, nothing left behind), False if it was left open because
            its owner must end it.
    """

    def __init__(self, local: _Endpoint, remote: _Endpoint, *, aborted: bool = True) -> None:
        super().__init__(errno.ECONNREFUSED, os.strerror(errno.ECONNREFUSED))
        self.local = local
        self.remote = remote
        self.aborted = aborted

    def __str__(self) -> str:
        done = "the connection was reset" if self.aborted else "the connection was left as it is"
        return (
            f"[Errno {self.errno}] no server listens on {self.remote}: "
            f"the socket connected to itself ({self.local} -> {self.remote}) and {done}; retry later"
        )

    def __reduce__(self) -> tuple[object, ...]:
        return (_self_connect_error, (self.local, self.remote, self.aborted))


def _self_connect_error(local: _Endpoint, remote: _Endpoint, aborted: bool) -> SelfConnectError:
    return SelfConnectError(local, remote, aborted=aborted)


class SourcePortError(TailbiteError, ValueError):
    """The source address asked for would make the connection one to itself.

    ``bind(source, P)`` followed by ``connect(P)`` on an address of this host always completes as a self-connect
    when nobody listens on P. That is a mistake in the call, so it is a :class:`ValueError`: retrying cannot help.

    Attributes:
        source: the source address asked for.
        destination: the destination asked for.
    """

    def __init__(self, source: _Endpoint, destination: _Endpoint) -> None:
        super().__init__(source, destination)
        self.source = source
        self.destination = destination

    def __str__(self) -> str:
        return (
            f"source address {self.source} has the port of the destination {self.destination}, "
            f"so the socket would connect to itself; use another source port (0 lets the kernel choose), "
            f"or pass allow_same_port=True if the destination is another host"
        )


class VerifyError(TailbiteError, ConnectionError):
    """The peer accepted the connection, but did not show that it is the server that was asked for.

    It is a :class:`ConnectionError`, without an errno: the connection exists, the server does not.

    Attributes:
        reason: one of five reasons, see :data:`VerifyReason`.
        detail: one sentence without a full stop, about the bytes that were expected and those that came.
        verifier: the name of the verifier, e.g. "redis"; "" if it is not known here.
        target: the server that was asked for, e.g. "db:6379"; "" if it is not known here.
        received: the bytes the peer sent, as far as they were read.
    """

    def __init__(
        self, reason: VerifyReason, detail: str, *, verifier: str = "", target: str = "", received: bytes = b""
    ) -> None:
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail
        self.verifier = verifier
        self.target = target
        self.received = received

    def __str__(self) -> str:
        where = f"{self.target} " if self.target else ""
        what = f"is not a {self.verifier} server" if self.verifier else "is not the server that was asked for"
        if self.reason == "not ready":
            what = f"({self.verifier}) is not ready" if self.verifier else "is not ready"
        return f"{where}{what}: {self.detail}" if where else f"the peer {what}: {self.detail}"

    def __reduce__(self) -> tuple[object, ...]:
        return (_verify_error, (self.reason, self.detail, self.verifier, self.target, self.received))


def _verify_error(reason: VerifyReason, detail: str, verifier: str, target: str, received: bytes) -> VerifyError:
    return VerifyError(reason, detail, verifier=verifier, target=target, received=received)


class AddressesError(TailbiteError, ConnectionError):
    """A name has several addresses, and none of them could be connected to.

    Its errno is that of the addresses, if they agree.

    Attributes:
        target: the name and port.
        errors: one for each address, in the order they were tried.
    """

    def __init__(self, target: str, errors: tuple[OSError, ...]) -> None:
        numbers = {error.errno for error in errors}
        number = numbers.pop() if len(numbers) == 1 else None
        super().__init__(*((number, os.strerror(number)) if number is not None and number > 0 else ()))
        self.target = target
        self.errors = errors

    def __str__(self) -> str:
        if not self.errors:
            return f"{self.target} has no address"
        return f"no address of {self.target} accepts a connection: {'; '.join(map(str, self.errors))}"

    def __reduce__(self) -> tuple[object, ...]:
        return (AddressesError, (self.target, self.errors))


class GaveUpError(TailbiteError, ConnectionError):
    """A reconnecting loop has used up its attempts, its time or its delays.

    It is a :class:`ConnectionError` with the errno of the last attempt, if that had one.

    Attributes:
        target: the server, e.g. "db:5432".
        why: the limit that was reached, in words.
        attempts: every attempt of this outage, the last one last (of a loop without a limit the last 1000).
        total: the number of attempts.
        seconds: the time the outage had lasted.
    """

    def __init__(
        self, target: str, why: str, attempts: tuple[_FailedAttempt, ...], *, total: int, seconds: float
    ) -> None:
        last = attempts[-1].error if attempts else None
        number = getattr(last, "errno", None)
        super().__init__(*((number, os.strerror(number)) if isinstance(number, int) and number > 0 else ()))
        self.target = target
        self.why = why
        self.attempts = attempts
        self.total = total
        self.seconds = seconds

    def __str__(self) -> str:
        times = f"{self.total} attempt{'' if self.total == 1 else 's'} in {self.seconds:.1f} s"
        last = self.attempts[-1].error if self.attempts else None
        ended = (
            str(last) or type(last).__name__ if last is not None else "the connection ended soon, without an error"
        )
        return f"gave up on {self.target} after {times} ({self.why}); the last one: {ended}"

    def __reduce__(self) -> tuple[object, ...]:
        return (_gave_up_error, (self.target, self.why, self.attempts, self.total, self.seconds))


def _gave_up_error(
    target: str, why: str, attempts: tuple[_FailedAttempt, ...], total: int, seconds: float
) -> GaveUpError:
    return GaveUpError(target, why, attempts, total=total, seconds=seconds)


class CatalogueError(TailbiteError, ValueError):
    """A file of the audit's catalogue is not valid.

    Attributes:
        file: the file, or the folder.
        key: the key in it, with its tables (``installed.programs``); None if the error concerns the whole file.
        reason: the mistake, in words.
        others: the other errors that were found, in this file and in the others that were read.
    """

    def __init__(self, file: str, key: str | None, reason: str, others: tuple[CatalogueError, ...] = ()) -> None:
        super().__init__(file, key, reason, others)
        self.file = file
        self.key = key
        self.reason = reason
        self.others = others

    def __str__(self) -> str:
        first = f"{self.file}: {self.key}: {self.reason}" if self.key else f"{self.file}: {self.reason}"
        return "\n".join([first, *map(str, self.others)])


class NotReadyError(TailbiteError, TimeoutError):
    """Servers that were waited for did not become ready in time.

    It is a :class:`TimeoutError` with ``errno == ETIMEDOUT``.

    Attributes:
        targets: the last :class:`~tailbite.Readiness` of each target; the ready ones included.
        seconds: the longest time of the wait; 0 for a single try.
    """

    def __init__(self, targets: tuple[_Readiness, ...], seconds: float) -> None:
        super().__init__(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT))
        self.targets = targets
        self.seconds = seconds

    @property
    def sightings(self) -> tuple[_Readiness, ...]:
        """The old name of ``targets``; deprecated."""
        import warnings

        warnings.warn("NotReadyError.sightings is now called targets", DeprecationWarning, stacklevel=2)
        return self.targets

    def __str__(self) -> str:
        missing = "; ".join(str(readiness) for readiness in self.targets if not readiness.ready)
        return f"not ready after {self.seconds:g} s: {missing}" if self.seconds else f"not ready: {missing}"

    def __reduce__(self) -> tuple[object, ...]:
        return (NotReadyError, (self.targets, self.seconds))


class NamespaceUnavailable(TailbiteError, OSError):  # noqa: N818 - named like BlockingIOError
    """This system does not let this process make a user or network namespace.

    Attributes:
        reason: one sentence that names the setting or the missing privilege.

    Args:
        number: the errno of the system call.
    """

    def __init__(self, number: int, reason: str) -> None:
        super().__init__(number, os.strerror(number))
        self.reason = reason

    def __str__(self) -> str:
        return self.reason

    def __reduce__(self) -> tuple[object, ...]:
        return (NamespaceUnavailable, (self.errno, self.reason))


class NetlinkError(TailbiteError, OSError):
    """The kernel answered a netlink request with an error (netlink(7), NLMSG_ERROR).

    Attributes:
        request: the request, in words.

    Args:
        number: the errno of the kernel's answer.
    """

    def __init__(self, number: int, request: str) -> None:
        super().__init__(number, os.strerror(number))
        self.request = request

    def __str__(self) -> str:
        return f"[Errno {self.errno}] {self.request}: {self.strerror}"

    def __reduce__(self) -> tuple[object, ...]:
        return (NetlinkError, (self.errno, self.request))


class GuardError(TailbiteError, RuntimeError):
    """``tailbite.guard()`` could not be switched on: an audit hook of this process forbids further audit hooks.

    Python adds no hook that an earlier one objects to, and says nothing (PEP 578). Nothing is guarded then.
    """

    def __str__(self) -> str:
        return (
            "guard() is not on: an audit hook of this process forbids further audit hooks. Call tailbite.guard() "
            "before that hook is added, or start the program under `tailbite run`."
        )


class FirewallError(TailbiteError, OSError):
    """A command that reads or changes the firewall failed, or was not found.

    Attributes:
        command: the command line.
        status: its exit status; 126 if it could not be run, 127 if it was not found.
        said: the text it printed.
    """

    def __init__(self, command: tuple[str, ...], status: int, said: str) -> None:
        super().__init__(errno.EPERM if "ermission denied" in said else errno.EIO, said)
        self.command = command
        self.status = status
        self.said = said

    def __str__(self) -> str:
        return f"{self.command[0]}: {self.said}"

    def __reduce__(self) -> tuple[object, ...]:
        return (FirewallError, (self.command, self.status, self.said))
