"""Container images: the client runs in the image's file system, and in the trap's network.

podman or docker pulls the image and reads its configuration. The audit unpacks the file system once, and the jail
changes its root to it. So with either engine, no daemon puts the client into another network namespace: its network
is the trap, and it ends with the jail like any other client.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tailbite.audit.client import Image

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["ImageError", "find_engine", "unpacked"]

_ENGINES: Final = ("podman", "docker")
_SECONDS: Final = 600
_HOSTS: Final = "127.0.0.1 localhost\n::1 localhost ip6-localhost\n"


class ImageError(OSError):
    """A container image that cannot be pulled or unpacked; the message says why."""


def find_engine() -> str:
    """Return the path of podman, or of docker.

    Raises:
        ImageError: neither is installed.
    """
    for engine in _ENGINES:
        if (path := shutil.which(engine)) is not None:
            return path
    raise ImageError("a container image needs podman or docker, and neither is installed")


@contextlib.contextmanager
def unpacked(name: str, engine: str | None = None) -> Iterator[Image]:
    """Unpack an image into a folder, which is removed at the end; the image is pulled if it is not there.

    Args:
        name: the image, as podman and docker call it.
        engine: the path of the engine; podman's or docker's if not given.

    Raises:
        ImageError: there is no engine or no such image, or it cannot be unpacked.
    """
    engine = engine or find_engine()
    configuration = _configuration(engine, name)
    with tempfile.TemporaryDirectory(prefix="tailbite-image-", ignore_cleanup_errors=True) as folder:
        root = Path(folder) / "root"
        root.mkdir()
        Path(folder).chmod(0o755)  # the image's user must reach its files
        _export(engine, name, root)
        _complete(root)
        yield Image(
            name=name,
            root=str(root),
            entrypoint=tuple(configuration.get("Entrypoint") or ()),
            environment=dict(entry.partition("=")[::2] for entry in configuration.get("Env") or ()),
            folder=configuration.get("WorkingDir") or "/",
            user=configuration.get("User") or "",
        )


def _run(*command: str) -> str:
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        raise ImageError(f"{' '.join(command[:3])} took more than {_SECONDS} s") from None
    if done.returncode != 0:
        said = done.stderr.strip().splitlines() or ["it said nothing"]
        raise ImageError(f"{Path(command[0]).name} {command[1]} failed: {said[-1]}")
    return done.stdout


def _configuration(engine: str, name: str) -> dict[str, Any]:
    try:
        told = _run(engine, "image", "inspect", name)
    except ImageError:
        _run(engine, "pull", name)
        told = _run(engine, "image", "inspect", name)
    configuration: dict[str, Any] = json.loads(told)[0].get("Config") or {}
    return configuration


def _export(engine: str, name: str, root: Path) -> None:
    """Unpack the file system of a container that is made for this, and never started."""
    container = _run(engine, "create", name, "unused").strip()
    try:
        with subprocess.Popen([engine, "export", container], stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            with tarfile.open(fileobj=process.stdout, mode="r|") as archive:
                archive.extractall(root, members=_usable(archive), filter="tar")
    except tarfile.TarError as error:
        raise ImageError(f"the file system of {name} cannot be unpacked: {error}") from None
    finally:
        _run(engine, "rm", container)


def _usable(archive: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """Leave out devices: only root could make them, and the client gets the host's /dev."""
    return (member for member in archive if not (member.ischr() or member.isblk() or member.isfifo()))


def _complete(root: Path) -> None:
    """Make what an engine would add: mount points, and the names of the loopback addresses."""
    for name in ("proc", "dev", "etc", "tmp"):
        (root / name).mkdir(exist_ok=True)
    (root / "tmp").chmod(0o1777)
    hosts = root / "etc" / "hosts"
    hosts.unlink(missing_ok=True)
    hosts.write_text(_HOSTS, encoding="ascii")
