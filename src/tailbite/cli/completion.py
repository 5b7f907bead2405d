"""``tailbite completion``: the completions for a shell, on stdout."""

from __future__ import annotations

import click

from tailbite.cli.share import COMPLETIONS, read_share


@click.command("completion", short_help="Print the completions for bash, zsh or fish.")
@click.argument("shell", type=click.Choice(sorted(COMPLETIONS)))
def command(shell: str) -> None:
    """Print the completions of the tailbite command for SHELL: bash, zsh or fish.

    Exit status: 0; 2 wrong usage.

    \b
    Examples:
      eval "$(tailbite completion bash)"                    # this shell; in ~/.bashrc: every shell
      tailbite completion zsh > ~/.zfunc/_tailbite          # with fpath+=(~/.zfunc) before compinit
      tailbite completion fish > ~/.config/fish/completions/tailbite.fish
    """
    click.echo(read_share(COMPLETIONS[shell]), nl=False)
