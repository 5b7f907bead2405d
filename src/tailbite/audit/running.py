"""A client that runs in a trap now: its jail, its driver, its workspace, and the recorder of its namespace."""

from __future__ import annotations

import os
import select
from pathlib import Path
from typing import TYPE_CHECKING

from tailbite.audit.client import Stdin
from tailbite.audit.enough import Watched, is_enough
from tailbite.audit.jail import Jail, OutputBuffer

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tailbite.audit.client import Client
    from tailbite.audit.observe import Recorder
    from tailbite.audit.records import Limits, Output, Phase
    from tailbite.kernel.sock_diag import TcpSocket

__all__ = ["BUILD", "RunningClient", "Workspace", "write_files"]

BUILD = "build"
"""The folder, beside those of the phases, in which a client is prepared."""

_IMAGE_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
"""The search path of an image without one, as podman and docker have it."""

_TICK = 0.005
_SLOW_TICK = 0.04
"""Seconds between polls of the sockets while something happens, and while nothing has for a second.

Packets, output and exits are noticed at once all the same; only the timeline of states depends on the polls.
"""


def write_files(folder: Path, files: Mapping[str, str]) -> None:
    """Make a folder with these files in it."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content, encoding="utf-8")


class Workspace:
    """The place where a client runs: the values of its placeholders, its folder and its environment."""

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
        _open_to_other_users(folder)

    def fill(self, text: str) -> str:
        """Replace the placeholders; any other brace stays as it is, since configuration files are full of them."""
        for placeholder, value in self._values.items():
            text = text.replace(placeholder, value)
        return text

    def environment(self) -> dict[str, str]:
        """Return this process's environment with the client's variables; temporary files go to its folder."""
        if (image := self.client.image) is not None:
            return {"PATH": _IMAGE_PATH, "HOME": "/", **image.environment}
        own = {"TMPDIR": str(self.folder)}
        if self.client.in_scratch:
            own |= {"HOME": str(self.folder), "LC_ALL": "C.UTF-8"}
        return {**os.environ, **own, **{name: self.fill(value) for name, value in self.client.environment.items()}}

    def jail(self, command: Sequence[str], stdin: Stdin = Stdin.EMPTY) -> Jail:
        """Start a command here, or in the client's image."""
        words = [self.fill(part) for part in command]
        if (image := self.client.image) is not None:
            return Jail(
                [*image.entrypoint, *words], environment=self.environment(), folder=Path(image.folder), stdin=stdin,
                root=image.root, user=image.user,
            )  # fmt: skip
        return Jail(
            words,
            environment=self.environment(),
            folder=self.folder if self.client.in_scratch else None,
            stdin=stdin,
        )


def _open_to_other_users(folder: Path) -> None:
    """Let a daemon that changes its user reach its folder; it must know the name, which is random above it."""
    if os.geteuid() == 0:
        folder.chmod(folder.stat().st_mode | 0o011)
        folder.parent.chmod(folder.parent.stat().st_mode | 0o011)


class RunningClient:
    """The client from start to end. A context manager: at its end nothing of it is left."""

    def __init__(self, workspace: Workspace, recorder: Recorder) -> None:
        self._workspace = workspace
        self._driver: Jail | None = None
        self._driver_due = 0.0
        self._driver_output = OutputBuffer()
        self._polled = 0.0
        self._busy_until = 1.0
        self.recorder = recorder
        self.exited_at: float | None = None
        self.sockets: list[TcpSocket] = []
        self.jail = workspace.jail(workspace.client.command, workspace.client.stdin)

    def __enter__(self) -> RunningClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def end(self) -> None:
        """End the driver and the client with everything they started."""
        try:
            if self._driver is not None:
                self._driver.end()
        finally:
            self.jail.end()

    @property
    def client(self) -> Client:
        """The client."""
        return self._workspace.client

    @property
    def is_gone(self) -> bool:
        """True if neither the client nor anything it started is left."""
        return self.jail.is_empty

    def last_output(self) -> tuple[Output, Output]:
        """Return the client's output, and that of the driver's runs, including the one under way."""
        self.jail.pump()
        if self._driver is not None:
            self._driver.pump()
            self._keep_driver_output(self._driver)
        return self.jail.output.output(), self._driver_output.output()

    def tick(self, others: Sequence[int] = ()) -> None:
        """Wait a moment, or less if something happens, and take what there is of packets, states and output."""
        watched = [self.recorder.fileno(), *self.jail.descriptors(), *others]
        if self._driver is not None:
            watched += self._driver.descriptors()
        now = self.recorder.now
        pause = _TICK if now < self._busy_until else _SLOW_TICK
        if any(select.select(watched, [], [], pause)):
            self._busy_until = self.recorder.now + 1.0
        self.jail.pump()
        now = self.recorder.now
        if self.exited_at is None and self.jail.exit_status is not None:
            self.exited_at = now
        self._drive(now)
        # A client that floods its output keeps select() from waiting; the sockets are polled no more often for it.
        if now - self._polled >= _TICK:
            self._polled = now
            self.sockets = self.recorder.poll()

    def _drive(self, now: float) -> None:
        driver = self._workspace.client.driver
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
        elif now >= self._driver_due and (driver.ready is None or os.path.exists(self._workspace.fill(driver.ready))):  # noqa: PTH110
            self._driver = self._workspace.jail(driver.command)

    def _keep_driver_output(self, driver: Jail) -> None:
        wrote = driver.output.output()
        self._driver_output.feed(wrote.head + wrote.tail)

    def is_over(self, limits: Limits, where: Phase, *, must_come_back: bool) -> bool:
        """Tell whether enough was seen for a verdict: see :func:`tailbite.audit.enough.is_enough`."""
        recorder = self.recorder
        watched = Watched(
            recorder.now, recorder.known_until, self.is_gone, recorder.crowded_since, recorder.self_connects
        )
        return is_enough(watched, limits, where, must_come_back=must_come_back)
