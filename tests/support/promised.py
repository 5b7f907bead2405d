"""The exit statuses that the helps promise, each with a command line that ends with it."""

from __future__ import annotations

from pathlib import Path

__all__ = ["ELSEWHERE", "PORT", "PROMISED"]

DATA = Path(__file__).parents[2] / "docs/data"
PORT = 40000

# For each command: the line that ends with each status that its help promises, and the circumstance if there is one.
# A reason in place of a line says where else it is tested.
_PRIVATE = "no settings"
PROMISED: dict[str, dict[int, tuple[str, str] | str]] = {
    "demo": {
        0: "acts that succeed: tests/cli/test_demo.py",
        1: "an act that failed: tests/cli/test_demo.py",
        4: ("", _PRIVATE),
    },
    "run": {
        127: ("-- no-such-program", ""),
        126: ("-- /", ""),
        4: ("--require -- true", "5 descriptors"),
    },
    "wait": {
        0: ("-t 0 --free 8080", ""),
        1: ("-t 0 127.0.0.1:1", ""),
        2: ("web", ""),
        4: ("-t 0 --free 192.0.2.1:80", ""),
        126: ("-t 0 --free 8080 -- /", ""),
        127: ("-t 0 --free 8080 -- no-such-program", ""),
        130: ("-t never 127.0.0.1:1", "SIGINT"),
    },
    "scan": {
        0: ("--netns self", ""),
        1: ("--netns self", "self-connect"),
        3: ("", "no processes"),
        4: "a destruction that is refused: tests/cli/test_scan.py",
    },
    "why": {0: ("22 --netns self", ""), 1: (f"{PORT} --netns self", ""), 3: ("22 --netns self", _PRIVATE)},
    "doctor": {
        0: ("--netns self", ""),
        1: (f"--netns self --ports {PORT}", ""),
        3: ("", "no processes"),
    },
    "fix": {
        0: ("--netns self --no-files", ""),
        1: ("--reserve 8125 --no-files", ""),
        2: ("--reserve 0", ""),
        3: ("--netns all --no-files", "no processes"),
        4: ("--reserve 8125 --no-files", _PRIVATE),
    },
    "watch": {
        0: ("--netns self --source poll --for 20ms", ""),
        1: ("--netns self --source poll --for 20ms", "self-connect"),
        3: ("--source poll --for 20ms", "no processes"),
        4: ("--source bpf --for 20ms", "no processes"),
        130: ("--netns self --source poll", "SIGINT"),
    },
    "exporter": {
        0: ("--netns self --source poll --textfile TMP/m.prom --once", ""),
        2: ("--budget lots", ""),
        4: ("--netns self --source poll --web.listen-address 192.0.2.1:9745", ""),
        130: ("--netns self --source poll --textfile TMP/n.prom", "SIGINT"),
    },
    "check": {
        0: ("--netns self --timeout 10m", ""),
        1: ("--netns self --timeout 10m", "self-connect"),
        3: ("", "no processes"),
        2: ("--netns other", ""),
    },
    "audit": {
        0: ("--check-catalogue --catalogue nc", ""),
        1: "a client that is not immune: tests/cli/test_audit.py",
        3: ("--quick -- true {port}", ""),
        4: ("--quick -- true {port}", _PRIVATE),
        130: "an interrupted audit: tests/cli/test_audit.py",
    },
    "lab loop": {
        0: (f"--from {DATA}/loop-story.jsonl.gz", ""),
        1: "a kernel that differs from the model: tests/lab/test_loop.py",
        4: ("", _PRIVATE),
    },
    "lab parity": {
        0: "agreement in all cells: tests/cli/lab/test_group.py",
        1: "a kernel that differs from the model: tests/lab/test_parity.py",
        4: ("", _PRIVATE),
    },
    "lab odds": {
        0: ("--port 40000 --range 40000-42999", ""),
        2: ("--port 0", ""),
        4: ("--port 32774", _PRIVATE),
    },
    "lab handshake": {
        0: (f"--from {DATA}/handshake.jsonl", ""),
        1: "a kernel without self-connects: no such kernel is known",
        4: ("", _PRIVATE),
    },
    "lab cures": {
        0: (f"--from {DATA}/cures.jsonl", ""),
        1: "strategies that fail: tests/lab/test_cures.py",
        4: ("", _PRIVATE),
    },
    "report": {
        0: ("TMP/fine", ""),
        1: ("TMP/found", ""),
        2: ("TMP/empty", ""),
        3: ("TMP/part", ""),
    },
    "schema": {0: ("scan", ""), 2: ("scann", "")},
    "completion": {0: ("bash", ""), 2: ("tcsh", "")},
    "man": {0: ("--raw", ""), 2: ("--roff", "")},
}
ELSEWHERE = {f"host-guard {name}": "tests/cli/test_host_guard.py" for name in ("install", "remove", "status")}
"""Commands that need iptables."""
