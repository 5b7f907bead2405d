"""A client that runs in a trap now: its jail, its driver, its folder, and the watch over its namespace."""

from __future__ import annotations

import os
import select
from typing import TYPE_CHECKING

from tailbite.audit.jail import Jail, OutputKeeper
from tailbite.audit.records import Stdin

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from tailbite.audit.observe import Watch
    from tailbite.audit.records import Client, Limits, Output, Phase
    from tailbite.kernel.sock_diag import TcpSocket

__all__ = ["BUILD", "Live", "Setting", "write_files"]

BUILD = "build"
"""The folder, beside those of the phases, in which a client is prepared."""

_TICK = 0.005


def write_files(folder: Path, files: Mapping[str, str]) -> None:
    """Make a folder with these files in it."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content, encoding="utf-8")


class Setting:
    """Where a client runs: what its placeholders stand for, its folder and its environment."""

    def __init__(self, client: Client, where: Phase, folder: Path, python: str) -> None:
        self.client = client
        self.folder = folder
        bracketed = f"[{where.host}]" if ":" in where.host else where.host
        self._values = {
            # host:port and URLs write an IPv6 address in brackets (RFC 3986 section 3.2.2), everything else does not.
            "{host}:{port}": f"{bracketed}:{where.port}",
            "//{host}": f"//{bracketed}",
            "@{host}": f"@{bracketed}",
            "{host}": where.host,
            "{port}": str(where.port),
            "{dir}": str(folder),
            "{build}": str(folder.parent / BUILD),
            "{python}": python,
        }
        write_files(folder, {name: self.fill(content) for name, content in client.files.items()})

    def fill(self, text: str) -> str:
        """Put the values in; any other brace stays as it is, since configuration files are full of them."""
        for placeholder, value in self._values.items():
            text = text.replace(placeholder, value)
        return text

    def environment(self) -> dict[str, str]:
        """Return our own environment with the client's variables; files it makes go to its folder."""
        own = {"TMPDIR": str(self.folder)}
        if self.client.in_scratch:
            own |= {"HOME": str(self.folder), "LC_ALL": "C.UTF-8"}
        return {**os.environ, **own, **{name: self.fill(value) for name, value in self.client.environment.items()}}

    def jail(self, command: Sequence[str], stdin: Stdin = Stdin.EMPTY) -> Jail:
        """Start a command here."""
        return Jail(
            [self.fill(part) for part in command],
            environment=self.environment(),
            folder=self.folder if self.client.in_scratch else self.folder.__class__.cwd(),
            stdin=stdin,
        )


class Live:
    """The client from start to end. A context manager: at its end nothing of it is left."""

    def __init__(self, setting: Setting, watch: Watch) -> None:
        self._setting = setting
        self._driver: Jail | None = None
        self._driver_due = 0.0
        self._driver_output = OutputKeeper()
        self._looked = 0.0
        self.watch = watch
        self.exited_at: float | None = None
        self.sockets: list[TcpSocket] = []
        self.jail = setting.jail(setting.client.command, setting.client.stdin)

    def __enter__(self) -> Live:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            if self._driver is not None:
                self._driver.end()
        finally:
            self.jail.end()

    @property
    def is_gone(self) -> bool:
        """True if neither the client nor anything it started is left."""
        return self.jail.is_empty

    def last_output(self) -> tuple[Output, Output]:
        """Return what the client wrote, and what the driver's runs wrote, the one under way among them."""
        self.jail.pump()
        if self._driver is not None:
            self._driver.pump()
            self._keep_driver_output(self._driver)
        return self.jail.output.output(), self._driver_output.output()

    def tick(self, others: Sequence[int] = ()) -> None:
        """Wait a moment, or less if something happens, and take what there is of packets, states and output."""
        watched = [self.watch.fileno(), *self.jail.descriptors(), *others]
        if self._driver is not None:
            watched += self._driver.descriptors()
        select.select(watched, [], [], _TICK)
        self.jail.pump()
        now = self.watch.now
        if self.exited_at is None and self.jail.exit_status is not None:
            self.exited_at = now
        self._drive(now)
        # A client that floods its output keeps select() from waiting; the sockets are polled no more often for it.
        if now - self._looked >= _TICK:
            self._looked = now
            self.sockets = self.watch.look()

    def _drive(self, now: float) -> None:
        driver = self._setting.client.driver
        if driver is None:
            return
        if self._driver is not None:
            self._driver.pump()
            if self._driver.exit_status is None:
                return
            self._driver.end()
            self._keep_driver_output(self._driver)
            self._driver = None
            if driver.every is None:
                self._driver_due = float("inf")
            else:
                self._driver_due = now + driver.every
        elif now >= self._driver_due and (driver.ready is None or os.path.exists(self._setting.fill(driver.ready))):  # noqa: PTH110
            self._driver = self._setting.jail(driver.command)

    def _keep_driver_output(self, driver: Jail) -> None:
        wrote = driver.output.output()
        self._driver_output.feed(wrote.head + wrote.tail)

    def is_over(self, limits: Limits) -> bool:
        """Tell whether enough was seen for a verdict, or nothing more is to be expected."""
        now, found = self.watch.now, self.watch.self_connects
        if self.is_gone or now >= limits.total:
            return True
        if not found.dialled:
            return now >= limits.dial
        watched = now - found.dialled[0]
        if found.open_since is None:
            return watched >= limits.watch
        if now - found.open_since >= limits.hold:
            return True
        # One that flaps may have one open at any time; a first one that is open is waited for.
        return len(found.found) > 1 and watched >= limits.watch + limits.hold
