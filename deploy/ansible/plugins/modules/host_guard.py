#!/usr/bin/python
# Copyright: The tailbite developers
# SPDX-License-Identifier: MIT


DOCUMENTATION = r"""
---
module: host_guard
short_description: Refuse every TCP self-connect of a host by a firewall rule
version_added: "0.2.0"
description:
  - Installs or removes the rule of C(tailbite host-guard), which answers a SYN on the loopback interface whose source
    is its destination with RST. Nothing else is touched.
options:
  state:
    description:
      - Whether the rule is in place.
    type: str
    choices: [present, absent]
    default: present
  systemd:
    description:
      - Also install the systemd units that put the rule back after a boot or after a reload of the firewall.
    type: bool
    default: true
  variant:
    description:
      - Which iptables to use. Without it, the one that C(iptables) is on the host.
    type: str
    choices: [nft, legacy]
  executable:
    description:
      - Name or path of the tailbite command on the host.
    type: str
    default: tailbite
author:
  - The tailbite developers (@tailbite)
attributes:
  check_mode:
    description: Says whether something would be changed and changes nothing.
    support: full
  diff_mode:
    description: Returns whether the rule and the units are there, before and after.
    support: full
  platform:
    description: The managed host runs Linux.
    platforms: linux
    support: full
extends_documentation_fragment: []
"""

EXAMPLES = r"""
- name: Refuse self-connects on every host
  tailbite.tailbite.host_guard:

- name: Remove the rule and its units
  tailbite.tailbite.host_guard:
    state: absent
"""

RETURN = r"""
status:
  description: The state afterwards, as in C(tailbite host-guard status --json). In check mode it is the state before.
  returned: success
  type: dict
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.tailbite.tailbite.plugins.module_utils.command import (
    EXECUTABLE,
    MISSING,
    run_json,
)


def read_status(module):
    """Return the document of host-guard status."""
    arguments = ["host-guard", "status"] + variant(module)
    return run_json(module, arguments, statuses=(0, 1))


def variant(module):
    return ["--variant", module.params["variant"]] if module.params["variant"] else []


def is_as_wanted(module, status):
    """Tell whether the host is in the wanted state already."""
    if module.params["state"] == "absent":
        firewalls = status["firewalls"]
        return not status["systemd_timer"] and not any(one["is_installed"] or one["positions"] for one in firewalls)
    return status["is_installed"] and (status["systemd_timer"] or not module.params["systemd"])


def change(module):
    """Bring the host into the wanted state."""
    verb = "install" if module.params["state"] == "present" else "remove"
    arguments = ["host-guard", verb, "--apply"] + variant(module)
    if verb == "install" and module.params["systemd"]:
        arguments.append("--systemd")
    program = module.get_bin_path(module.params["executable"])
    if program is None:
        module.fail_json(msg=MISSING.format(module.params["executable"]))
    status, out, err = module.run_command([program] + arguments)
    if status != 0:
        module.fail_json(msg="tailbite host-guard %s: %s" % (verb, err.strip() or out.strip()), rc=status)


def summary(status):
    """Return what a diff shows of a state."""
    guarded = sorted("IPv%d" % one["ip_version"] for one in status["firewalls"] if one["is_installed"])
    units = "present" if status["systemd_timer"] else "absent"
    return "rule in place for: %s\nsystemd units: %s\n" % (", ".join(guarded) or "none", units)


def main():
    module = AnsibleModule(
        argument_spec=dict(
            state=dict(type="str", choices=["present", "absent"], default="present"),
            systemd=dict(type="bool", default=True),
            variant=dict(type="str", choices=["nft", "legacy"]),
            executable=EXECUTABLE,
        ),
        supports_check_mode=True,
    )
    before = after = read_status(module)
    changed = not is_as_wanted(module, before)
    if changed and not module.check_mode:
        change(module)
        after = read_status(module)
    module.exit_json(changed=changed, status=after, diff=dict(before=summary(before), after=summary(after)))


if __name__ == "__main__":
    main()
