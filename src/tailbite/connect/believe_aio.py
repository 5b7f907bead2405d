"""The same as :mod:`tailbite.connect.believe` for asyncio, on a non-blocking socket that has no transport yet."""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING

from tailbite.connect.believe import PAUSE, counts_bytes, look, low_water
from tailbite.connect.verifying import Accepted, Send, Verification
from tailbite.errors import VerifyError

if TYPE_CHECKING:
    from tailbite.connect.target import Target
    from tailbite.connect.verifying import Verifier

__all__ = ["believe"]


async def believe(sock: socket.socket, verifier: Verifier, target: Target, timeout: float | None = None) -> None:
    """Return if the verifier accepts the peer; arguments and errors are those of :func:`believe.believe`."""
    verification = Verification(verifier, target)
    try:
        async with asyncio.timeout(verifier.timeout if timeout is None else timeout):
            await _converse(sock, verification, keep=not verifier.spends)
    except VerifyError:
        raise
    except OSError as error:  # TimeoutError is one
        raise verification.failed(error) from error


async def _converse(sock: socket.socket, verification: Verification, *, keep: bool) -> None:
    loop = asyncio.get_running_loop()
    while not isinstance(wants := verification.wants, Accepted):
        if isinstance(wants, Send):
            await loop.sock_sendall(sock, wants.data)
            verification.done()
        elif keep:
            verification.done(await _wait_and_look(sock, len(verification.received), wants.most))
        else:
            verification.done(await loop.sock_recv(sock, wants.most))
    if keep and verification.consumed:
        await loop.sock_recv(sock, verification.consumed)  # they are all there: we have seen them


async def _wait_and_look(sock: socket.socket, known: int, most: int) -> bytes:
    if not known or counts_bytes(sock):
        with low_water(sock, known + 1):
            await _readable(sock)
            return sock.recv(known + most, socket.MSG_PEEK)[known:]
    while (data := look(sock, known, most)) is None:  # noqa: ASYNC110 - nothing wakes us: that is why we look
        await asyncio.sleep(PAUSE)
    return data


async def _readable(sock: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    ready = loop.create_future()

    def wake() -> None:
        if not ready.done():
            ready.set_result(None)

    loop.add_reader(sock, wake)
    try:
        await ready
    finally:
        loop.remove_reader(sock)
