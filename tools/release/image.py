"""``make image`` and ``make try-image``: the container image, built and run by podman with a store of its own.

The image has the application folder and the command of the packages on a base with Python. ``make try-image`` builds
on a Debian made by mmdebstrap, so that no registry is needed, and uses the image on the network of its host.
Both need root.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import urllib.request
from pathlib import Path
from time import monotonic, sleep

from release import application, rootfs, system_tree
from release.project import ROOT, run, version
from release.wheels import build_wheels

LOCAL_BASE = "localhost/tailbite-base"
PORT, METRICS_PORT = 40000, 9745
ISOLATED = "TAILBITE_ISOLATED"
SELF_CONNECTS = "tailbite_self_connects"


def main() -> None:
    """Build the image, or try the one that was built."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--store", type=Path, required=True, help="the folder of podman's images")
    options.add_argument("--base", help="the image to build on; default: that of the Containerfile")
    options.add_argument("--rootfs", type=Path, help="build on a Debian made by mmdebstrap; this is its archive")
    options.add_argument("--try", action="store_true", dest="is_trial", help="use the image that was built")
    given = options.parse_args()
    if os.geteuid() != 0 or shutil.which("podman") is None:
        sys.exit("this needs root and podman (Debian's package podman)")
    isolate("--net" if given.is_trial else "")
    podman = podman_command(given.store)
    if given.is_trial:
        run("ip", "link", "set", "lo", "up")
        use_plain_cgroups()
        try_image(podman)
        return
    base = given.base
    if given.rootfs is not None:
        rootfs.make_rootfs(given.rootfs)
        run(*podman, "import", given.rootfs, LOCAL_BASE)
        base = LOCAL_BASE
    build(podman, base)


def podman_command(store: Path) -> tuple[str, ...]:
    """Return podman with its images in a folder of the project and its state in a temporary one."""
    state = Path(tempfile.gettempdir()) / "tailbite-podman"
    # Neither systemd nor overlay is there in a container or a sandbox.
    folders = ("--root", str(store.resolve()), "--runroot", str(state), "--tmpdir", str(state / "tmp"))
    return ("podman", *folders, "--cgroup-manager", "cgroupfs", "--storage-driver", "vfs", "--events-backend", "none")


def isolate(network: str) -> None:
    """Run this script again in a mount namespace of its own, and return there."""
    if ISOLATED in os.environ:
        return
    os.environ[ISOLATED] = "1"
    again = [sys.executable, "-m", "release.image", *sys.argv[1:]]
    os.execvp("unshare", ["unshare", "--mount", *([network] if network else []), *again])


def use_plain_cgroups() -> None:
    """Mount cgroup v2 alone, in this process's own mount namespace: crun refuses a hybrid hierarchy."""
    if Path("/sys/fs/cgroup/cgroup.procs").exists():
        return
    run("umount", "--recursive", "/sys/fs/cgroup")
    run("mount", "-t", "cgroup2", "none", "/sys/fs/cgroup")


def build(podman: tuple[str, ...], base: str | None) -> None:
    """Build ``tailbite:VERSION`` and ``tailbite:latest``."""
    with tempfile.TemporaryDirectory(prefix="tailbite-image-") as name:
        context = Path(name)
        (context / "wheels").mkdir()
        application.lay_out(context / "app", build_wheels(context / "wheels"))
        system_tree.write(context / "tailbite", system_tree.COMMAND.encode(), 0o755)
        arguments = ["--build-arg", f"VERSION={version()}", *(["--build-arg", f"BASE={base}"] if base else [])]
        tags = ("--tag", f"tailbite:{version()}", "--tag", "tailbite:latest")
        file = ROOT / "deploy/image/Containerfile"
        run(
            *podman, "build", "--isolation", "chroot", "--network", "host", *arguments, *tags, "--file", file, context
        )
    print(run(*podman, "images", "--noheading", "tailbite"), end="")


def try_image(podman: tuple[str, ...]) -> None:
    """Find a self-connect of the host from the image, and count it in the exporter as an unprivileged user."""
    holder = socket.socket()
    holder.bind(("127.0.0.1", PORT))
    holder.connect(("127.0.0.1", PORT))
    container = ("run", "--rm", "--network", "host", "--cgroups", "disabled", "--ulimit", "host")
    command = [*podman, *container, "tailbite:latest"]
    done = subprocess.run([*command, "scan", "--json"], check=False, stdout=subprocess.PIPE, text=True)
    found = [each["endpoint"] for each in json.loads(done.stdout)["self_connects"]]
    report("scan in the image finds the self-connect of its host", found == [f"127.0.0.1:{PORT}"])
    with subprocess.Popen([*command, "exporter"]) as exporter:
        try:
            counted = wait_until_counted()
        finally:
            exporter.terminate()
    report("the exporter of the image counts it, as user 65534", counted)
    report("the exporter ends at SIGTERM", exporter.returncode in (0, 143))


def wait_until_counted() -> bool:
    """Ask the exporter until its metrics have the self-connect; tell whether they had it within three minutes."""
    end = monotonic() + 180
    while monotonic() < end:
        with contextlib.suppress(OSError):
            with urllib.request.urlopen(f"http://127.0.0.1:{METRICS_PORT}/metrics", timeout=5) as answer:
                lines = answer.read().decode().splitlines()
            if any(line.startswith(SELF_CONNECTS) and line.endswith(" 1.0") for line in lines):
                return True
        sleep(0.2)
    return False


def report(claim: str, holds: bool) -> None:
    """Print a claim that holds; end with status 1 if it does not."""
    if not holds:
        sys.exit(f"not so: {claim}")
    print(claim)


if __name__ == "__main__":
    main()
