"""Call a function in another network namespace, which this user may enter in one of several ways."""

from __future__ import annotations

import contextlib
import errno
import os
from typing import TYPE_CHECKING

from tailbite.kernel.namespace import CLONE_NEWNET, CLONE_NEWUSER, entered, setns
from tailbite.kernel.procfs import own_namespace

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import TypeVar

    from tailbite.host.see.records import Namespace

    T = TypeVar("T")

__all__ = ["call_in_namespace", "inside"]


@contextlib.contextmanager
def inside(namespace: Namespace) -> Iterator[None]:
    """Put the calling thread into the namespace, and back at the end; for the caller's own it does nothing.

    Raises:
        OSError: it is gone (ENOENT), or not permitted (EPERM: needs CAP_SYS_ADMIN over it).
    """
    if not namespace.path:
        yield
        return
    with entered(namespace.path):
        # A path through /proc/PID may by now lead to another process's namespace.
        if namespace.inode and own_namespace() != namespace.inode:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), namespace.path)
        yield


def call_in_namespace(namespace: Namespace, look: Callable[[], T]) -> T:
    """Call ``look`` with the calling thread in the namespace, and return what it returns, which must pickle.

    Root goes in and comes back. Anybody else can go where a user namespace of their own owns the network namespace
    (``unshare -Ur``, rootless containers), and only by becoming a member of that user namespace, from which there is
    no way back (user_namespaces(7)): so a child process goes, and sends the answer.

    Raises:
        OSError: the namespace is gone, or not permitted.
    """
    try:
        with inside(namespace):
            return look()
    except PermissionError:
        if not namespace.pids:
            raise
        return _send_child(namespace, look)


def _send_child(namespace: Namespace, look: Callable[[], T]) -> T:
    import pickle  # only who has no way in for itself needs it

    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        try:
            with os.fdopen(writing, "wb") as out:
                out.write(pickle.dumps(_answer(namespace, look)))
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as answer:
        data = answer.read()
    os.waitpid(child, 0)
    if not data:
        raise OSError(errno.ECHILD, "the process that inspected it died")
    result: T | OSError = pickle.loads(data)
    if isinstance(result, OSError):
        raise result
    return result


def _answer(namespace: Namespace, look: Callable[[], T]) -> T | OSError:
    try:
        _join(namespace)
        return look()
    except OSError as error:
        return error


def _join(namespace: Namespace) -> None:
    """Make this process, single-threaded as it is, a member of the namespace and of the user namespace of its owner.

    Raises:
        OSError: the namespace is gone, or not permitted.
    """
    folder = f"/proc/{namespace.pids[0]}/ns"
    user, network = (os.open(f"{folder}/{name}", os.O_RDONLY | os.O_CLOEXEC) for name in ("user", "net"))
    setns(user, CLONE_NEWUSER)
    setns(network, CLONE_NEWNET)
    if namespace.inode and own_namespace() != namespace.inode:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), folder)
