"""An asyncio connect that is cancelled at any step, once or several times, leaves no socket and no task behind."""

from __future__ import annotations

import asyncio
import gc
import socket
import warnings
from typing import Any

import pytest

import tailbite
from support.listeners import accepting
from support.server import open_sockets
from support.trap import PORT

STEPS = 14


async def cancel_at(step: int, times: int, pause: int, delay: float | None) -> None:
    task = asyncio.ensure_future(tailbite.open_connection("db.example", PORT, happy_eyeballs_delay=delay))
    for _ in range(step):
        await asyncio.sleep(0)
    for _ in range(times):
        task.cancel()
        for _ in range(pause):
            await asyncio.sleep(0)
    try:
        _, writer = await task
    except asyncio.CancelledError:
        return
    writer.transport.abort()


async def cancel_everywhere(delay: float | None) -> list[object]:
    """Cancel at each step, one to three times, with each distance; return what was left."""
    loop = asyncio.get_running_loop()

    async def resolve(*_: object, **__: object) -> list[Any]:
        await asyncio.sleep(0)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (f"127.0.0.{number}", PORT)) for number in (1, 2, 3)]

    loop.getaddrinfo = resolve  # type: ignore[method-assign]
    left: list[object] = []
    loop.set_exception_handler(lambda _, context: left.append(context["message"]))
    before, tasks = open_sockets(), len(asyncio.all_tasks())
    for times in (1, 2, 3):
        for step in range(STEPS):
            for pause in range(5):
                await cancel_at(step, times, pause, delay)
                for _ in range(6):
                    await asyncio.sleep(0)
                more = open_sockets() - before
                if more or len(asyncio.all_tasks()) != tasks:
                    left.append((times, step, pause, more, len(asyncio.all_tasks()) - tasks))
    return left


@pytest.mark.usefixtures("network")
@pytest.mark.parametrize("delay", [None, 0, 0.25], ids=["in turn", "at once", "happy eyeballs"])
def test_nothing_is_left_wherever_a_connect_is_cancelled(delay: float | None) -> None:
    async def run() -> list[object]:
        with accepting("0.0.0.0", PORT):
            return await cancel_everywhere(delay)

    gc.collect()  # what other tests left
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always", ResourceWarning)
        left = asyncio.run(run())
        gc.collect()
    assert left == []
    assert [str(one.message) for one in told if issubclass(one.category, ResourceWarning)] == []
