"""The ``tailbite`` command itself: it knows the names of its commands and loads the one that is called."""

from __future__ import annotations

import errno
import os
import sys
from importlib import import_module
from typing import Any, Final

import click

from tailbite._version import __version__
from tailbite.cli import front, status
from tailbite.cli.output import plain

__all__ = ["LazyGroup", "tailbite"]

# Since click 8.2 a group that is called without a command raises its help.
_NO_ARGUMENTS: Final[type[click.UsageError] | tuple[()]] = getattr(click.exceptions, "NoArgsIsHelpError", ())


class LazyGroup(click.Group):
    """A group whose commands are imported when they are called.

    Args:
        commands: name -> (module that has the command as ``command``, one line for --help).
    """

    def __init__(self, *args: Any, commands: dict[str, tuple[str, str]], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._modules = commands

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self._modules)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self._modules:
            return None
        command: click.Command = import_module(self._modules[cmd_name][0]).command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in self._modules.items()])

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Run, and turn an interruption into status 130, and a reader that went away into silence."""
        try:
            result = super().main(*args, **{**kwargs, "standalone_mode": False}) or status.FINE
            sys.stdout.flush()  # here, where a full disk can still be told
            return result
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise
            # What is still in the buffer would be tried again when Python ends.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            click.echo(
                f"tailbite: the output cannot be written: {error.strerror}; free space, or write elsewhere", err=True
            )
            sys.exit(status.FOUND)
        except click.Abort:
            sys.exit(status.INTERRUPTED)
        except click.UsageError as error:
            if isinstance(error, _NO_ARGUMENTS):
                error.show()
                sys.exit(status.USAGE)
            path = error.ctx.command_path if error.ctx is not None else "tailbite"
            click.echo(f"{path}: {plain(error.format_message())} (see '{path} --help')", err=True)
            sys.exit(status.USAGE)
        except click.ClickException as error:
            error.show()
            sys.exit(error.exit_code)


class _Front(LazyGroup):
    """The command itself, whose help is its front page."""

    def format_help(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        formatter.write(front.front_page(formatter.width))


@click.group(
    cls=_Front,
    commands=front.COMMANDS,
    help=front.ABOUT,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": front.WIDEST},
    no_args_is_help=True,
)
@click.version_option(__version__, "--version", message="tailbite %(version)s")
def tailbite() -> None:
    """The group; its help is :data:`tailbite.cli.front.ABOUT`."""
