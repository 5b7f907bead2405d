"""Generator of docs/seen.md: the same self-connect as netstat, ss, lsof, psutil and tailbite show it.

The tool makes three sockets in a private network namespace: a self-connected client, the TIME-WAIT of another one,
and a port that is only bound. Then it runs each program and searches its output for them.
Run: ``python tools/seen.py`` (Debian: net-tools, iproute2, lsof); ``--check`` compares only.
"""

from __future__ import annotations

import difflib
import os
import re
import shutil
import socket
import subprocess
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path

from tailbite.kernel.namespace import enter_private_network

PAGE = Path(__file__).parents[1] / "docs/seen.md"
HELD, LEFT, BOUND = 32246, 32248, 32250
PSUTIL = "import psutil\nfor c in psutil.net_connections('tcp'): print(c.laddr, c.raddr, c.status, c.pid)"

INTRODUCTION = f"""\
One client is connected to itself on 127.0.0.1:{HELD}. A second one was, on port {LEFT}; it closed its socket and
left a TIME-WAIT. Port {BOUND} is bound without a listener. `python tools/seen.py` makes these three sockets, runs the
programs, and writes this page."""
REMARK = """\
`netstat` and `ss` print the line among all others, and you must notice that both ends are the same: `ss` has no
filter that compares two ports. `lsof` finds sockets through their processes, and a TIME-WAIT has no process. None of
them shows a port that is only bound (newer versions of `ss` have an option for it)."""


@dataclass(frozen=True)
class View:
    """The output of one program.

    Attributes:
        name: name of the program.
        shown: the command as a user types it.
        arguments: the command as it is run.
        text: its output.
    """

    name: str
    shown: str
    arguments: tuple[str, ...]
    text: str = ""

    def run(self) -> View:
        """Run the program beside all three sockets and return the view with its output."""
        while True:
            if not is_left():
                connect_to_itself(LEFT).close()
            # Under pytest, GNU readline puts COLUMNS into the environment that programs inherit.
            environment = {name: value for name, value in os.environ.items() if name != "COLUMNS"}
            done = subprocess.run(self.arguments, capture_output=True, text=True, check=False, env=environment)
            if is_left():  # the TIME-WAIT lasts 60 s, and a busy machine may take longer
                return View(self.name, self.shown, self.arguments, done.stdout)

    def lines(self, port: int) -> list[str]:
        """Return the lines that contain a port."""
        return [line.rstrip() for line in self.text.splitlines() if re.search(rf"\b{port}\b", line)]


def views() -> list[View]:
    """Return the programs; tailbite last."""
    tailbite = (sys.executable, "-m", "tailbite")
    return [
        View("netstat", "netstat -tanp", ("netstat", "-tanp")),
        View("ss", "ss -tanp", ("ss", "-tanp")),
        View("lsof", "lsof -nP -iTCP", ("lsof", "-nP", "-iTCP")),
        View("psutil", "psutil.net_connections('tcp')", (sys.executable, "-c", PSUTIL)),
        View("tailbite scan", "tailbite scan", (*tailbite, "scan", "--netns", "self")),
        View("tailbite why", f"tailbite why {HELD}", (*tailbite, "why", str(HELD), "--netns", "self")),
    ]


def connect_to_itself(port: int) -> socket.socket:
    """Return a socket that is connected to itself on a port."""
    sock = socket.socket()
    sock.bind(("127.0.0.1", port))
    sock.connect(("127.0.0.1", port))
    return sock


def is_left() -> bool:
    """Tell whether the TIME-WAIT exists, from /proc/net/tcp."""
    lines = (line.split() for line in Path("/proc/net/tcp").read_text(encoding="ascii").splitlines()[1:])
    return any(int(local.partition(":")[2], 16) == LEFT and state == "06" for _, local, _, state, *_ in lines)


def scene() -> list[socket.socket]:
    """Make the two sockets that stay open; :meth:`View.run` makes the TIME-WAIT."""
    bound = socket.socket()
    bound.bind(("127.0.0.1", BOUND))
    return [connect_to_itself(HELD), bound]


def table(seen: list[View], why: dict[int, str]) -> list[str]:
    """Return the table in Markdown."""
    titles = ("", "self-connect", "TIME-WAIT of one", "only bound", "names the process", "explains it")
    rows = [f"| {' | '.join(titles)} |", "|---" * len(titles) + "|"]
    for view in seen:
        own = view.name.startswith("tailbite")
        lines = [view.lines(port) for port in (HELD, LEFT, BOUND)]
        if view.name == "tailbite why":
            lines = [[line] if line else [] for line in why.values()]
        process = any(str(os.getpid()) in line for line in (*lines[0], *(view.text.splitlines() if own else ())))
        says = bool(re.search("connected to itself", view.text, re.IGNORECASE))
        marks = ["yes" if found else "no" for found in (*lines, process, says)]
        rows.append(f"| `{view.shown}` | {' | '.join(marks)} |")
    return rows


def finding(text: str) -> list[str]:
    """Return code and explanation of a finding, without the time that differs in each run."""
    code, explanation = text.splitlines()[:2]
    explanation = re.sub(r"It has been idle for [^.]*(?:\.\d[^.]*)?\. ", "", explanation)
    return [code, *textwrap.wrap(explanation, 80)]


def page(seen: list[View]) -> str:
    """Return the page; the process number differs in each run, so 812 replaces it."""
    command = (sys.executable, "-m", "tailbite", "why", "--netns", "self")
    codes = {port: f"tailbite why {port}" for port in (HELD, LEFT, BOUND)}
    said = {port: View("", "", (*command, str(port))).run().text.partition("\n")[0] for port in codes}
    text = [
        "# The same self-connect in netstat, ss, lsof and psutil",
        "",
        INTRODUCTION,
        "",
        *table(seen, said),
        "",
        REMARK,
    ]
    for view in seen:
        lines = view.lines(HELD) if view.name != "tailbite why" else finding(view.text)
        text += ["", f"## {view.name}", "", "```", f"$ {view.shown}", *lines, "```"]
    text += ["", "## tailbite why on the other two ports", "", "```"]
    text += [*(f"$ {codes[port]}\n{said[port]}" for port in (LEFT, BOUND)), "```"]
    return re.sub(rf"\b{os.getpid()}\b", "812", "\n".join(text)) + "\n"


def comparable(text: str) -> list[str]:
    """Return the table and what `tailbite why` prints; what the other programs print differs between versions."""
    introduction, *sections = text.split("\n## ")
    named = (part for part in sections if part.startswith("tailbite why"))
    own = [re.sub(r"\bpython[\d.]* \(", "python (", " ".join(part.split())) for part in named]
    return [introduction, *own]


def main() -> int:
    """Write or check the page."""
    missing = [name for name in ("netstat", "ss", "lsof") if shutil.which(name) is None]
    if missing:
        print(f"not installed: {', '.join(missing)}", file=sys.stderr)
        return 4
    enter_private_network()
    sockets = scene()
    text = page([view.run() for view in views()])
    for sock in sockets:
        sock.close()
    if "--check" in sys.argv:
        kept, made = comparable(PAGE.read_text(encoding="utf-8")), comparable(text)
        print(*difflib.unified_diff(kept, made, "kept", "made", n=0, lineterm=""), sep="\n")
        return int(kept != made)
    PAGE.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
