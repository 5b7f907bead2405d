"""``tailbite man``: the man page, for installations that man(1) does not know of."""

from __future__ import annotations

import shutil
import subprocess
import sys

import click

from tailbite.cli.share import MAN_PAGE, read_share


@click.command("man", short_help="Show the man page.")
@click.option("--raw", is_flag=True, help="Print its source (roff), to be saved as tailbite.8.")
def command(raw: bool) -> None:
    """Show the man page of tailbite.

    On a terminal man(1) formats it. Into a pipe or a file, or where man(1) is not installed, its source is printed.

    Exit status: 0; 2 wrong usage.

    \b
    Examples:
      tailbite man
      tailbite man --raw > ~/.local/share/man/man8/tailbite.8
    """
    page = read_share(MAN_PAGE)
    man = shutil.which("man")
    if raw or man is None or not sys.stdout.isatty():
        click.echo(page, nl=False)
        return
    subprocess.run([man, "--local-file", "-"], input=page, text=True, check=False)
