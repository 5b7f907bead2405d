#!/usr/bin/python
# Copyright: The tailbite developers
# SPDX-License-Identifier: MIT


DOCUMENTATION = r"""
---
module: reserve
short_description: Reserve ports, so that the kernel never chooses them as source ports
version_added: "0.2.0"
description:
  - Merges ports into C(net.ipv4.ip_local_reserved_ports), in the running kernel and in C(/etc/sysctl.d), with
    C(tailbite fix). What others reserved there is kept. Servers may bind reserved ports as before.
  - A client that dials a reserved port of its own host can no longer connect to itself, unless it binds exactly that
    port first.
options:
  ports:
    description:
      - The ports, each a port or a range such as C(50051-50060).
    type: list
    elements: str
    required: true
  state:
    description:
      - With C(present) the ports are reserved.
      - With C(absent) the changes that tailbite made on the host are reverted, the newest first, as long as the
        change reserved one of the ports. A reservation that was there before tailbite came is not touched.
    type: str
    choices: [present, absent]
    default: present
  executable:
    description:
      - Name or path of the tailbite command on the host.
    type: str
    default: tailbite
author:
  - The tailbite developers (@tailbite)
attributes:
  check_mode:
    description: Says what would be changed and changes nothing.
    support: full
  diff_mode:
    description: Returns the text of the files and the value of the setting, before and after.
    support: full
  platform:
    description: The managed host runs Linux.
    platforms: linux
    support: full
extends_documentation_fragment: []
"""

EXAMPLES = r"""
- name: Reserve the ports of our services
  tailbite.tailbite.reserve:
    ports: ["32246", "33060-33062"]

- name: Undo that
  tailbite.tailbite.reserve:
    ports: ["32246", "33060-33062"]
    state: absent
"""

RETURN = r"""
changes:
  description: What was changed, or would be in check mode, as in C(tailbite fix --json).
  returned: success
  type: list
  elements: dict
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.tailbite.tailbite.plugins.module_utils.command import (
    EXECUTABLE,
    run_json,
)

KEY = "net.ipv4.ip_local_reserved_ports"


def as_set(text):
    """Return the ports of a list such as 80,8000-8010."""
    ports = set()
    for part in filter(None, (part.strip() for part in (text or "").split(","))):
        low, dash, high = part.partition("-")
        ports.update(range(int(low), int(high if dash else low) + 1))
    return ports


def diff_of(changes):
    """Return Ansible's diff of tailbite's changes."""
    shown = []
    for change in changes:
        if change["kind"] == "setting":
            shown.append(
                dict(
                    before_header=change["key"],
                    after_header=change["key"],
                    before="%s\n" % (change["before"] or ""),
                    after="%s\n" % (change["after"] or ""),
                )
            )
        elif change.get("diff"):
            shown.append(dict(prepared=change["diff"]))
    return shown


def present(module):
    arguments = ["fix", "--netns", "self", "--reserve", ",".join(module.params["ports"])]
    changes = run_json(module, arguments, statuses=(0, 1))["changes"]
    if changes and not module.check_mode:
        changes = run_json(module, arguments + ["--apply"], statuses=(0,))["changes"]
    return changes


def absent(module):
    wanted = as_set(",".join(module.params["ports"]))
    done = []
    while True:
        changes = run_json(module, ["fix", "--undo", "--dry-run"], statuses=(0, 1))["changes"]
        ours = [
            change
            for change in changes
            if change["kind"] == "setting"
            and change["key"] == KEY
            and wanted & (as_set(change["before"]) - as_set(change["after"]))
        ]
        if not ours:
            return done
        if module.check_mode:
            return changes
        done += run_json(module, ["fix", "--undo", "--apply"], statuses=(0,))["changes"]


def main():
    module = AnsibleModule(
        argument_spec=dict(
            ports=dict(type="list", elements="str", required=True),
            state=dict(type="str", choices=["present", "absent"], default="present"),
            executable=EXECUTABLE,
        ),
        supports_check_mode=True,
    )
    changes = present(module) if module.params["state"] == "present" else absent(module)
    module.exit_json(changed=bool(changes), changes=changes, diff=diff_of(changes))


if __name__ == "__main__":
    main()
