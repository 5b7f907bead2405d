#!/usr/bin/python
# Copyright: The tailbite developers
# SPDX-License-Identifier: MIT


DOCUMENTATION = r"""
---
module: scan_info
short_description: List the TCP sockets of a host that are connected to themselves
version_added: "0.2.0"
description:
  - Runs C(tailbite scan) and returns every self-connected socket, who holds it, and what could not be inspected.
  - The module never changes anything.
options:
  netns:
    description:
      - Which network namespaces to inspect. C(all), C(self), a process number, or a name of ip-netns(8).
    type: str
    default: all
  executable:
    description:
      - Name or path of the tailbite command on the host.
    type: str
    default: tailbite
author:
  - The tailbite developers (@tailbite)
attributes:
  check_mode:
    description: Can run in check mode, since nothing is changed.
    support: full
  diff_mode:
    description: Nothing is changed, so there is no diff.
    support: none
  platform:
    description: The managed host runs Linux.
    platforms: linux
    support: full
extends_documentation_fragment: []
"""

EXAMPLES = r"""
- name: Find self-connected sockets
  tailbite.tailbite.scan_info:
  register: scan

- name: Fail where there is one
  ansible.builtin.assert:
    that: not scan.found
"""

RETURN = r"""
found:
  description: Whether a self-connected socket was found.
  returned: success
  type: bool
self_connects:
  description: The self-connected sockets, as in C(tailbite scan --json).
  returned: success
  type: list
  elements: dict
document:
  description: The whole document of C(tailbite scan --json).
  returned: success
  type: dict
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.tailbite.tailbite.plugins.module_utils.command import (
    EXECUTABLE,
    NETNS,
    visit,
)


def main():
    spec = dict(netns=NETNS, executable=EXECUTABLE)
    visit(AnsibleModule(argument_spec=spec, supports_check_mode=True), "scan")


if __name__ == "__main__":
    main()
