# Copyright: The tailbite developers
# SPDX-License-Identifier: MIT
"""The tailbite command on a managed host: run it, read its JSON, and fail in its own words."""

import json

EXECUTABLE = dict(type="str", default="tailbite")
NETNS = dict(type="str", default="all")

MISSING = (
    "there is no command {0!r} on this host; install tailbite (its package, or pipx install tailbite), or give its "
    "path as 'executable'"
)


def run_json(module, arguments, statuses):
    """Run tailbite with --json and return its document.

    Args:
        module: the AnsibleModule.
        arguments: the command's arguments, without the program and without --json.
        statuses: the exit statuses that are answers; any other one is a failure.
    """
    program = module.get_bin_path(module.params["executable"])
    if program is None:
        module.fail_json(msg=MISSING.format(module.params["executable"]))
    status, out, err = module.run_command([program] + arguments + ["--json"])
    try:
        document = json.loads(out)
    except ValueError:
        document = None
    if status not in statuses or not isinstance(document, dict):
        words = err.strip() or out.strip() or "no output"
        module.fail_json(msg="tailbite %s: %s" % (arguments[0], words), rc=status)
    return document


def visit(module, command):
    """Exit with what an inspecting command found; nothing is changed."""
    arguments = [command, "--netns", module.params["netns"]]
    if command == "doctor" and module.params["ports"]:
        arguments += ["--ports", ",".join(module.params["ports"])]
    document = run_json(module, arguments, statuses=(0, 1, 3))
    key = "self_connects" if command == "scan" else "findings"
    module.exit_json(changed=False, found=bool(document[key]), document=document, **{key: document[key]})
