"""Generator of the man page and the shell completions in share/: ``make man``. With --check it only compares."""

from __future__ import annotations

import sys
from pathlib import Path

import completions
from manual import man_page
from tree import command_tree

from tailbite._version import __version__
from tailbite.cli.group import tailbite

SHARE = Path(__file__).resolve().parent.parent / "share"


def generated() -> dict[str, str]:
    """Return the text of every generated file in share/ by its name."""
    root = command_tree(tailbite, "tailbite")
    return {
        "man/man8/tailbite.8": man_page(root, __version__),
        "bash-completion/completions/tailbite": completions.bash(root),
        "zsh/site-functions/_tailbite": completions.zsh(root),
        "fish/vendor_completions.d/tailbite.fish": completions.fish(root),
    }


def main() -> int:
    """Write or compare the files; return 1 if a file differs."""
    stale = 0
    for name, text in generated().items():
        file = SHARE / name
        if file.is_file() and file.read_text(encoding="utf-8") == text:
            continue
        if "--check" in sys.argv:
            print(f"{file.relative_to(SHARE.parent)} does not match the commands: run make man")
            stale = 1
            continue
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
        print(f"wrote {file.relative_to(SHARE.parent)}")
    return stale


if __name__ == "__main__":
    sys.exit(main())
