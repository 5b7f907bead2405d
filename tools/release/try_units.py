"""``make try-units``: the units of the .deb package under systemd as PID 1, and the Ansible role on such a host.

Each service is started, used, restarted, killed and stopped in a Debian of its own: the exporter with its socket, the
watcher, the check with its timer, and the host guard's. A self-connect is the use: it must be counted, destroyed,
reported or refused. Nothing of the machine's own systemd is touched.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from release import application, rootfs
from release.booted import PACKAGES, Booted, booted
from release.debian import build_deb
from release.project import ROOT, run, version
from release.wheels import build_wheels

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

CONNECT = (
    "import socket, sys; s = socket.socket(); s.bind(('127.0.0.1', PORT)); s.connect(('127.0.0.1', PORT)); "
    "print('connected', flush=True); "
)
HOLD = f"{CONNECT}sys.stdin.read()"
READ = f"{CONNECT}s.settimeout(60); s.recv(1)"
SCRAPE = "import urllib.request as u; print(u.urlopen('http://127.0.0.1:9745/metrics', timeout=30).read().decode())"
WAIT_S = 90.0


class Trial:
    """Steps that were tried, and what was not as expected.

    Args:
        system: where.
    """

    def __init__(self, system: Booted) -> None:
        self.faults: list[str] = []
        self._system = system

    def ok(self, *command: str, part: str = "", status: int = 0) -> str:
        """Run a command that must end with a status and print a part; return its output."""
        done = self._system.call(*command)
        return self.judge(command, done, done.returncode == status and part in done.stdout, part)

    def until(self, *command: str, part: str) -> str:
        """Run a command until it prints a part."""
        end = time.monotonic() + WAIT_S
        done = self._system.call(*command)
        while part not in done.stdout and time.monotonic() < end:
            time.sleep(0.5)
            done = self._system.call(*command)
        return self.judge(command, done, part in done.stdout, part)

    def judge(
        self, command: tuple[str, ...], done: subprocess.CompletedProcess[str], is_fine: bool, part: str = ""
    ) -> str:
        """Take note of the outcome of a command; return its output."""
        line = " ".join(command if len(" ".join(command)) < 100 else (*command[:2], "..."))
        expected = f": {part}" if part else ""
        print(f"  {'ok   ' if is_fine else 'WRONG'} {line}{expected}", flush=True)
        if not is_fine:
            self.faults.append(f"{line}: status {done.returncode}\n{done.stdout}")
        return done.stdout

    def python(self, code: str, port: int = 0, *, part: str = "", status: int = 0) -> str:
        """Run Python code inside, about a port."""
        return self.ok("python3", "-c", code.replace("PORT", str(port)), part=part, status=status)

    def hold(self, port: int) -> subprocess.Popen[str]:
        """Start a process that holds a self-connect until its stdin ends."""
        code = HOLD.replace("PORT", str(port))
        process = subprocess.Popen(self._system.enter("python3", "-c", code), stdin=-1, stdout=-1, text=True)
        assert process.stdout is not None
        if process.stdout.readline() != "connected\n":
            self.faults.append("no self-connect came about: there was nothing to notice")
        return process


def try_exporter(trial: Trial) -> None:
    """Socket activation, eBPF as another user than root, a restart that refuses no scrape, kill -9, stop."""
    units = ("tailbite-exporter.socket", "tailbite-exporter.service")
    trial.ok("systemctl", "enable", "--now", *units)
    trial.ok("systemctl", "is-active", *units, part="active")
    trial.ok("sh", "-c", 'grep -E "Uid|CapEff" /proc/$(systemctl show -P MainPID tailbite-exporter)/status')
    trial.ok("sh", "-c", "test $(stat -c %u /proc/$(systemctl show -P MainPID tailbite-exporter)) -gt 60000")
    trial.python(SCRAPE, part='tailbite_event_source_info{source="bpf"}')
    held = trial.hold(40000)
    trial.until("python3", "-c", SCRAPE, part='tailbite_self_connects_total{port="40000",where="host"} 1.0')
    trial.until("python3", "-c", SCRAPE, part='tailbite_self_connects{port="40000",state="held",where="host"} 1.0')
    held.communicate()
    trial.ok("systemctl", "restart", "tailbite-exporter.service")
    trial.python(SCRAPE, part="tailbite_build_info")
    trial.ok("systemctl", "kill", "--signal=KILL", "tailbite-exporter.service")
    trial.python(SCRAPE, part="tailbite_build_info")  # the socket keeps the request until the exporter is back
    trial.ok("systemctl", "show", "-P", "NRestarts", "tailbite-exporter.service", part="1")
    trial.ok("systemctl", "stop", *units)
    trial.ok("systemctl", "show", "-P", "Result", "tailbite-exporter.service", part="success")


def try_watch(trial: Trial) -> None:
    """A self-connect is destroyed, and reported in the journal."""
    trial.ok("systemctl", "enable", "--now", "tailbite-watch.service")
    trial.until("journalctl", "-o", "cat", "-u", "tailbite-watch", part='"source": "bpf"')
    trial.python(READ, 40002, status=1, part="ConnectionAbortedError")
    trial.until("journalctl", "-o", "cat", "-u", "tailbite-watch", part='"is_destroyed": true')
    trial.ok("systemctl", "restart", "tailbite-watch.service")
    trial.ok("systemctl", "stop", "tailbite-watch.service")
    trial.ok("systemctl", "show", "-P", "Result", "tailbite-watch.service", part="success")


def try_check(trial: Trial) -> None:
    """The check succeeds, fails while there is a self-connect, and its timer starts it."""
    trial.until("sh", "-c", "systemctl start tailbite-check.service && echo fine", part="fine")
    held = trial.hold(40001)
    trial.ok("systemctl", "start", "tailbite-check.service", status=1)
    trial.ok("journalctl", "-o", "cat", "-u", "tailbite-check", part="40001")
    held.communicate()
    trial.ok("systemctl", "enable", "--now", "tailbite-check.timer")
    trial.ok("systemctl", "list-timers", "--no-pager", part="tailbite-check.service")
    trial.ok("systemctl", "disable", "--now", "tailbite-check.timer")


def try_host_guard(trial: Trial, variant: str) -> None:
    """The unit puts the rule in place, again after a flush, and is gone after the removal."""
    guard = ("tailbite", "host-guard")
    first = {"nft": 40010, "legacy": 40020}[variant]  # a TIME-WAIT keeps each port for a minute
    trial.python(CONNECT, first, part="connected")  # the control: without the rule it connects to itself
    trial.ok(*guard, "install", "--apply", "--systemd", "--variant", variant)
    trial.python(CONNECT, first + 1, status=1, part="Error")
    trial.ok("systemctl", "is-active", "tailbite-host-guard.timer", part="active")
    trial.ok("systemctl", "stop", "tailbite-host-guard.timer", "tailbite-host-guard.service")  # or it repairs at once
    trial.ok(
        "sh", "-c", f"iptables-{variant} -F && iptables-{variant} -X; ip6tables-{variant} -F; ip6tables-{variant} -X"
    )
    trial.python(CONNECT, first + 2, part="connected")
    trial.ok("systemctl", "start", "tailbite-host-guard.service")
    trial.python(CONNECT, first + 3, status=1, part="Error")
    trial.ok("systemd-analyze", "security", "--threshold=20", "--no-pager", "tailbite-host-guard.service")
    trial.ok(*guard, "remove", "--apply")
    trial.ok("systemctl", "status", "tailbite-host-guard.timer", status=4)


def try_role(trial: Trial, system: Path, inside: Booted, ansible: Path) -> None:
    """The role exporter by ssh: check mode, a first run, and a second one that changes nothing."""
    with tempfile.TemporaryDirectory(prefix="tailbite-role-") as name:
        folder = Path(name)
        run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / "key")
        (system / "root/.ssh").mkdir(mode=0o700, exist_ok=True)
        shutil.copy(folder / "key.pub", system / "root/.ssh/authorized_keys")
        trial.ok("systemctl", "start", "ssh.service")
        for step, wanted in {"--check": "changed=", "--diff": "changed=", "": "changed=0"}.items():
            done = _play(inside, ansible, folder, *([step] if step else []))
            trial.judge(("ansible-playbook", step), done, done.returncode == 0 and wanted in done.stdout, wanted)
    trial.python(SCRAPE.replace("9745", "9746"), part="tailbite_build_info")
    trial.ok("systemctl", "disable", "--now", "tailbite-exporter.socket", "tailbite-exporter.service")


def _play(inside: Booted, ansible: Path, folder: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    (folder / "play.yml").write_text(
        "- hosts: all\n  gather_facts: false\n  roles:\n"
        "    - {role: tailbite.tailbite.exporter, exporter_listen: '127.0.0.1:9746'}\n"
    )
    options = "-o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR"
    link = folder / "ansible_collections/tailbite/tailbite"
    if not link.exists():
        link.parent.mkdir(parents=True)
        link.symlink_to(ROOT / "deploy/ansible")
    environment = {"ANSIBLE_COLLECTIONS_PATH": str(folder), "ANSIBLE_LOCAL_TEMP": str(folder / "tmp")}
    command = [
        "nsenter", f"--target={inside.pid}", "--net", "env", *(f"{key}={text}" for key, text in environment.items()),
        str(ansible), "-i", "127.0.0.1,", "-u", "root", "--private-key", str(folder / "key"),
        "--ssh-common-args", options, "-e", "ansible_python_interpreter=/usr/bin/python3",
        str(folder / "play.yml"), *flags,
    ]  # fmt: skip
    return subprocess.run(command, check=False, text=True, stdout=-1, stderr=subprocess.STDOUT, timeout=600)


def main() -> None:
    """Boot, try every unit, and exit with status 1 if anything was not as expected."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--rootfs", type=Path, default=ROOT / ".peers/systemd.tar", help="the archive of the Debian")
    options.add_argument("--ansible", type=Path, default=ROOT / ".venv-deploy/bin/ansible-playbook")
    given = options.parse_args()
    rootfs.make_rootfs(given.rootfs, PACKAGES)
    with tempfile.TemporaryDirectory(prefix="tailbite-units-") as name:
        work = Path(name)
        system = work / "system"
        rootfs.unpack(given.rootfs, system)
        install_package(work, system)
        with booted(system) as inside:
            trial = Trial(inside)
            for title, step in steps(trial, system, inside, given.ansible):
                print(title, flush=True)
                step()
    for fault in trial.faults:
        print(fault, file=sys.stderr)
    sys.exit(bool(trial.faults))


def install_package(work: Path, system: Path) -> None:
    """Install the .deb package of this checkout."""
    app = work / "app"
    (work / "wheels").mkdir()
    application.lay_out(app, build_wheels(work / "wheels"))
    (work / "deb").mkdir()
    package = build_deb(work / "deb", app, work / "deb", version())
    shutil.copy(package, system / package.name)
    done = rootfs.call_inside(system, "dpkg", "--install", f"/{package.name}")
    if done.returncode:
        sys.exit(done.stdout)


def steps(trial: Trial, system: Path, inside: Booted, ansible: Path) -> Iterator[tuple[str, Callable[[], None]]]:
    """Yield what is tried, with its title."""
    yield "exporter", partial(try_exporter, trial)
    yield "check", partial(try_check, trial)
    yield "watch", partial(try_watch, trial)
    for variant in ("nft", "legacy"):
        yield f"host guard, {variant}", partial(try_host_guard, trial, variant)
    if ansible.exists():
        yield "Ansible role", partial(try_role, trial, system, inside, ansible)
    else:
        print(f"the Ansible role is left out: {ansible} does not exist (make try-deploy makes it)", file=sys.stderr)


if __name__ == "__main__":
    main()
