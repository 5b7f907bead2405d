"""The systemd units that keep the host guard's rule in place: after a boot, and after others rewrite the firewall.

A firewall manager that reloads may remove the rules of others (``nft flush ruleset``, ``iptables-restore``) without
telling them. So a timer installs the rule again every minute, which does nothing while the rule is in place.
"""

from __future__ import annotations

import shlex
import subprocess
from pathlib import Path
from typing import Final

from tailbite import _itself
from tailbite._files import write_atomically
from tailbite.errors import FirewallError

__all__ = [
    "TIMER",
    "UNIT_DIRECTORY",
    "disable_commands",
    "enable_commands",
    "is_running",
    "remove_units",
    "run_systemctl",
    "units",
    "write_units",
]

UNIT_DIRECTORY: Final = Path("/etc/systemd/system")
SERVICE: Final = "tailbite-host-guard.service"
TIMER: Final = "tailbite-host-guard.timer"
_SANDBOX: Final = """\
# CAP_NET_ADMIN changes the firewall, CAP_NET_RAW opens the socket of iptables-legacy, CAP_DAC_READ_SEARCH reads a
# Python that belongs to another user. /run has the lock of iptables-legacy.
CapabilityBoundingSet=CAP_NET_ADMIN CAP_NET_RAW CAP_DAC_READ_SEARCH
NoNewPrivileges=yes
ProtectSystem=strict
ReadWritePaths=/run
ProtectHome=read-only
ProtectProc=invisible
PrivateTmp=yes
PrivateDevices=yes
PrivateMounts=yes
ProtectKernelTunables=yes
ProtectKernelModules=yes
ProtectKernelLogs=yes
ProtectControlGroups=yes
ProtectClock=yes
ProtectHostname=yes
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
LockPersonality=yes
MemoryDenyWriteExecute=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallFilter=~@privileged @resources
SystemCallErrorNumber=EPERM
RestrictAddressFamilies=AF_NETLINK AF_INET AF_INET6
IPAddressDeny=any
UMask=0077
"""
"""The limits of the unit: systemd-analyze security rates its exposure 2.0."""
_LOAD_LEGACY: Final = "modprobe -q -a ip_tables ip6_tables"
"""iptables-legacy loads these modules itself, which the sandbox forbids; the kernel loads all others when asked."""
_FIREWALLS = "firewalld.service ufw.service nftables.service netfilter-persistent.service iptables.service"


def units(variant: str | None = None, program: tuple[str, ...] = ()) -> dict[str, str]:
    """Return the text of each unit by its file name. Pure, apart from where this Python is.

    Args:
        variant: "nft" or "legacy", None for the variant that ``iptables`` is when the unit runs.
        program: the command that runs tailbite; this Python's if not given.
    """
    load = {"legacy": _LOAD_LEGACY, None: f"iptables -V | grep -q legacy && {_LOAD_LEGACY}"}.get(variant)
    command = [*(program or _itself.command()), "host-guard", "install", "--apply", "--quiet"]
    if variant is not None:
        command += ["--variant", variant]
    return {
        SERVICE: f"""\
[Unit]
Description=Refuse TCP connections of this host to themselves
After={_FIREWALLS}

[Service]
Type=oneshot
{f"ExecStartPre=-+/bin/sh -c '{load}'" if load else "# The kernel loads the modules of nft."}
ExecStart={shlex.join(command).replace("%", "%%")}
{_SANDBOX}""",
        TIMER: f"""\
[Unit]
Description=Keep the rule that refuses TCP connections of this host to themselves

[Timer]
OnActiveSec=0s
OnUnitInactiveSec=60s
AccuracySec=5s
Unit={SERVICE}

[Install]
WantedBy=timers.target
""",
    }


def enable_commands() -> list[tuple[str, ...]]:
    """Return the commands that enable the units."""
    return [("systemctl", "daemon-reload"), ("systemctl", "enable", "--now", TIMER)]


def disable_commands() -> list[tuple[str, ...]]:
    """Return the commands that disable the units; run them before the units are deleted."""
    return [("systemctl", "disable", "--now", TIMER)]


def is_running() -> bool:
    """Tell whether systemd is this system's init (sd_booted(3))."""
    return Path("/run/systemd/system").is_dir()


def write_units(texts: dict[str, str], directory: Path) -> list[Path]:
    """Write the units that differ from the files in the directory, each atomically; return their paths.

    Raises:
        OSError: not permitted.
    """
    written = []
    for name, text in texts.items():
        path = directory / name
        if path.exists() and path.read_text(encoding="utf-8") == text:
            continue
        write_atomically(path, text)
        written.append(path)
    return written


def remove_units(directory: Path) -> list[Path]:
    """Delete the units that exist; return their paths.

    Raises:
        OSError: not permitted.
    """
    there = [path for path in (directory / SERVICE, directory / TIMER) if path.exists()]
    for path in there:
        path.unlink()
    return there


def run_systemctl(command: tuple[str, ...]) -> None:
    """Run systemctl.

    Raises:
        FirewallError: systemctl is not installed, or failed.
    """
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise FirewallError(command, 126, getattr(error, "strerror", None) or str(error)) from error
    if done.returncode:
        raise FirewallError(command, done.returncode, done.stderr.strip() or f"exit status {done.returncode}")
