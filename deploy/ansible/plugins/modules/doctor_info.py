#!/usr/bin/python
# Copyright: The tailbite developers
# SPDX-License-Identifier: MIT


DOCUMENTATION = r"""
---
module: doctor_info
short_description: List what puts a host at risk of TCP self-connects
version_added: "0.2.0"
description:
  - Runs C(tailbite doctor) and returns its findings with their codes, severities and remedies.
  - The module never changes anything.
options:
  ports:
    description:
      - Ports of services that should run on the host, each a port or a range such as C(50051-50060).
      - Services that are down now are judged as well.
    type: list
    elements: str
    default: []
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
- name: Find out which services are at risk
  tailbite.tailbite.doctor_info:
    ports: ["5432", "32246"]
  register: doctor

- name: Print the codes of the findings
  ansible.builtin.debug:
    msg: "{{ doctor.findings | map(attribute='code') | unique }}"
"""

RETURN = r"""
found:
  description: Whether there is a finding.
  returned: success
  type: bool
findings:
  description: The findings, as in C(tailbite doctor --json).
  returned: success
  type: list
  elements: dict
document:
  description: The whole document of C(tailbite doctor --json).
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
    ports = dict(type="list", elements="str", default=[])
    spec = dict(netns=NETNS, executable=EXECUTABLE, ports=ports)
    visit(AnsibleModule(argument_spec=spec, supports_check_mode=True), "doctor")


if __name__ == "__main__":
    main()
