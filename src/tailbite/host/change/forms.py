"""The remedy as a text for the engine that manages the hosts: a pod, TuneD, OpenShift, Ansible or cloud-init. Pure.

Each engine sets a value as a whole, and replaces what is there. So a form says nothing of this host: it holds the
ports that were asked for, and a comment says what the value replaces.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING
from urllib.parse import quote

from tailbite.host.sysctl.value import EPHEMERAL, RESERVED

if TYPE_CHECKING:
    from tailbite.core.ports import PortRange, PortSet

__all__ = ["Form", "FormSettings", "write_form"]

_FILE = "/etc/sysctl.d/60-tailbite.conf"


class Form(Enum):
    """The engines that ``tailbite fix --as`` writes for."""

    POD = "pod"
    TUNED = "tuned"
    MACHINECONFIG = "machineconfig"
    ANSIBLE = "ansible"
    CLOUD_INIT = "cloud-init"


@dataclass(frozen=True, slots=True)
class FormSettings:
    """The settings to roll out. An empty set of ports and no range mean: leave that one alone."""

    reserved: PortSet
    ephemeral: PortRange | None = None

    def items(self) -> list[tuple[str, str]]:
        """Return the sysctl names and values, in the order in which they are set."""
        items = [(RESERVED.key, RESERVED.spell(self.reserved))] if self.reserved else []
        if self.ephemeral is not None:
            items.append((EPHEMERAL.key, EPHEMERAL.spell(self.ephemeral)))
        return items


def write_form(form: Form, settings: FormSettings) -> str:
    """Return the text for an engine, ending in a newline.

    Raises:
        ValueError: there is nothing to set.
    """
    if not settings.items():
        raise ValueError("there is nothing to set: name ports to reserve, or a range")
    return _WRITERS[form](settings)


def _pod(settings: FormSettings) -> str:
    lines = [
        "# Both are safe sysctls: any pod may set them (ip_local_reserved_ports since Kubernetes 1.27).",
        "# Not for pods with hostNetwork: true; their ports are the node's, so set them on the node.",
        "# The value replaces what the pod's namespace has, which is nothing unless this manifest sets it elsewhere.",
        "spec:",
        "  securityContext:",
        "    sysctls:",
    ]
    for name, value in settings.items():
        lines += [f"      - name: {name}", f'        value: "{value}"']
    return _text(lines)


def _tuned(settings: FormSettings) -> str:
    lines = [
        "# A TuneD profile: /etc/tuned/tailbite/tuned.conf, then: tuned-adm profile tailbite",
        "# Add your own profile as include=NAME below [main]. These values replace those of that profile.",
        "[main]",
        "summary=Ports that clients must not take as source ports",
        "",
        "[sysctl]",
        *(f"{name}={value}" for name, value in settings.items()),
    ]
    return _text(lines)


def _machineconfig(settings: FormSettings) -> str:
    content = "".join(f"{name} = {value}\n" for name, value in settings.items())
    lines = [
        "# For OpenShift's Machine Config Operator. The nodes of the role restart one after another.",
        "apiVersion: machineconfiguration.openshift.io/v1",
        "kind: MachineConfig",
        "metadata:",
        "  name: 99-worker-tailbite",
        "  labels:",
        "    machineconfiguration.openshift.io/role: worker",
        "spec:",
        "  config:",
        "    ignition:",
        "      version: 3.2.0",
        "    storage:",
        "      files:",
        f"        - path: {_FILE}",
        "          mode: 420",
        "          overwrite: true",
        "          contents:",
        f"            source: data:,{quote(content)}",
    ]
    return _text(lines)


def _ansible(settings: FormSettings) -> str:
    if settings.ephemeral is None:
        lines = [
            "# Merges with what is reserved on each host; collection tailbite.tailbite.",
            "- name: Reserve ports, so that no client gets them as source ports",
            "  tailbite.tailbite.reserve:",
            f'    ports: ["{settings.reserved}"]'.replace(",", '", "'),
            "  become: true",
        ]
        return _text(lines)
    lines = ["# Collection ansible.posix. Each value replaces what the host has."]
    for name, value in settings.items():
        lines += [
            f"- name: Set {name}",
            "  ansible.posix.sysctl:",
            f"    name: {name}",
            f'    value: "{value}"',
            f"    sysctl_file: {_FILE}",
            "  become: true",
        ]
    return _text(lines)


def _cloud_init(settings: FormSettings) -> str:
    lines = [
        "#cloud-config",
        "# For new hosts: written before the first service starts.",
        "write_files:",
        f"  - path: {_FILE}",
        '    permissions: "0644"',
        "    content: |",
        *(f"      {name} = {value}" for name, value in settings.items()),
        "runcmd:",
        f"  - [sysctl, --load, {_FILE}]",
    ]
    return _text(lines)


def _text(lines: list[str]) -> str:
    return "\n".join(lines) + "\n"


_WRITERS = {
    Form.POD: _pod,
    Form.TUNED: _tuned,
    Form.MACHINECONFIG: _machineconfig,
    Form.ANSIBLE: _ansible,
    Form.CLOUD_INIT: _cloud_init,
}
