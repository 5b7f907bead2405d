"""The client in a container image: the image's files, variables, folder and user; the trap's network."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
import tempfile
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from audit.leftovers import nothing_left
from conftest import CI
from tailbite.audit import Client, Limits, Word, audit
from tailbite.audit.image import ImageError, find_engine, unpacked
from tailbite.cli.schema import read_schema

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

Draft202012Validator: Any = import_module("jsonschema").Draft202012Validator

ENGINE = '''#!{python}
"""An engine that has one image, as podman and docker answer."""
import json, sys
with open("{log}", "a") as log:
    print(*sys.argv[1:], file=log)
if sys.argv[1:3] == ["image", "inspect"] and sys.argv[3] == "mine":
    print(json.dumps([{{"Config": {configuration}}}]))
elif sys.argv[1] == "create":
    print("made")
elif sys.argv[1] == "export":
    sys.stdout.buffer.write(open("{archive}", "rb").read())
elif sys.argv[1] != "rm":
    sys.exit("Error: no such image")
'''

LIMITS = Limits(dial=60, watch=0.5, quick=True)

PASSWD = """root:x:0:0::/:/bin/sh
app:x:4711:4712::/:/bin/sh
"""


@pytest.fixture
def engine(tmp_path: Path, peer: Callable[[str], str]) -> str:
    """An engine of the test's own, whose image has BusyBox."""
    busybox = Path(peer("busybox"))
    archive = tmp_path / "archive.tar"
    with tarfile.open(archive, "w") as tar:
        tar.add(busybox.resolve(), "bin/busybox")
        for name in ("sh", "nc", "id"):
            link = tarfile.TarInfo(f"bin/{name}")
            link.type, link.linkname = tarfile.SYMTYPE, "busybox"
            tar.addfile(link)
        device = tarfile.TarInfo("dev/null")
        device.type = tarfile.CHRTYPE
        tar.addfile(device)
        (tmp_path / "passwd").write_text(PASSWD)
        tar.add(tmp_path / "passwd", "etc/passwd")
    configuration = {
        "Entrypoint": ["/bin/sh", "-c"],
        "Env": ["MARK=of=the image"],
        "WorkingDir": "/etc",
        "User": "app",
    }
    program = tmp_path / "engine"
    program.write_text(
        ENGINE.format(
            python=sys.executable, archive=archive, log=tmp_path / "log", configuration=json.dumps(configuration)
        )
    )
    program.chmod(0o755)
    return str(program)


@pytest.mark.usefixtures("network")
def test_the_client_runs_in_the_image_and_in_the_trap(engine: str, tmp_path: Path) -> None:
    script = 'echo "$MARK in $PWD as $(id -u) pid $$"; exec nc {host} {port}'
    with unpacked("mine", engine) as image:
        scratch = tmp_path / "scratch"
        scratch.mkdir()
        with nothing_left(scratch):
            verdict = audit(Client("x", (script,), image=image), LIMITS)
    assert not Path(image.root).exists()
    assert verdict.verdict is Word.HOLDS
    assert verdict.image == "mine"
    said = verdict.observations[0].output.text
    user = 4711 if Path("/proc/self/uid_map").read_text().split()[1] == "0" else 0
    assert said.startswith(f"of=the image in /etc as {user} pid ")
    log = (tmp_path / "log").read_text().splitlines()
    assert log == ["image inspect mine", "create mine unused", "export made", "rm made"]


def test_an_image_that_cannot_be_had_is_pulled_and_then_a_sentence(engine: str, tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="engine pull failed: Error: no such image"), unpacked("other", engine):
        pass
    assert (tmp_path / "log").read_text().splitlines() == ["image inspect other", "pull other"]


def test_without_an_engine_the_sentence_says_what_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(ImageError, match="needs podman or docker"):
        find_engine()


@pytest.fixture
def podman(peer: Callable[[str], str]) -> Iterator[str]:
    """Podman with a store of the test's own, by the one driver that works on every file system."""
    # The path of a run root has 50 characters at most.
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        program = Path(folder) / "podman"
        options = f"--root {folder}/store --runroot {folder}/run --storage-driver vfs"
        program.write_text(f'#!/bin/sh\nexec {peer("podman")} {options} "$@"\n')
        program.chmod(0o755)
        yield str(program)


@pytest.fixture
def podmans_image(tmp_path: Path, podman: str, peer: Callable[[str], str]) -> Iterator[str]:
    """An image in podman's store that has BusyBox and a variable."""
    archive = tmp_path / "archive.tar"
    with tarfile.open(archive, "w") as tar:
        tar.add(Path(peer("busybox")).resolve(), "bin/busybox")
    name = "localhost/tailbite-test-image"
    done = subprocess.run(
        [podman, "import", "--change", "ENV MARK=mine", archive, name], capture_output=True, text=True
    )
    if done.returncode != 0:
        (pytest.fail if CI else pytest.skip)(f"podman cannot import an image here: {done.stderr}")
    yield name
    subprocess.run([podman, "rmi", name], check=True, capture_output=True)


@pytest.mark.peers
@pytest.mark.usefixtures("network")
def test_a_client_in_an_image_of_podman_is_audited_and_the_document_is_valid(
    tmp_path: Path, podman: str, podmans_image: str
) -> None:
    shell = "/bin/busybox sh -c '/bin/busybox echo $MARK; exec /bin/busybox nc {host} {port}'"
    reports = tmp_path / "x.html", tmp_path / "x.xml"
    done = subprocess.run(
        [
            *(sys.executable, "-m", "tailbite", "audit", "--json", "--quick", "--timeout", "60"),
            *("--image", podmans_image, "--name", "nc", "--command", shell, "--command", "/bin/none {port}"),
            *("--html", str(reports[0]), "--junit", str(reports[1])),
        ],
        env={**os.environ, "PATH": f"{Path(podman).parent}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1, done.stderr
    document = json.loads(done.stdout)
    Draft202012Validator(json.loads(read_schema("audit"))).validate(document)
    nc, none = document["clients"]
    assert (nc["client"], nc["image"], nc["verdict"]) == ("nc", podmans_image, "holds")
    assert nc["phases"][0]["output"].startswith("mine\n")
    assert (none["image"], none["verdict"]) == (podmans_image, "unsupported")
    assert all(podmans_image in report.read_text(encoding="utf-8") for report in reports)
