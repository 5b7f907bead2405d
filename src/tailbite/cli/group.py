"""The ``tailbite`` command itself: it knows the names of its commands and loads the one that is called."""

from __future__ import annotations

import errno
import os
import re
import sys
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

import click

from tailbite._version import __version__
from tailbite.cli import front, status
from tailbite.cli.output import Unsupported, note, plain, print_to_stderr
from tailbite.kernel.executable import GONE, is_working_directory_gone

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["LazyGroup", "tailbite"]

_LONG: Final = 120  # letters of a word of the user's that are repeated in a message; others may be elsewhere

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

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command; an unknown one is refused with the name that is most alike."""
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError:
            import difflib

            close = difflib.get_close_matches(args[0], self._modules, 1, 0.6)
            if not close:
                raise
            raise click.UsageError(f"No such command {args[0]!r}. Did you mean {close[0]!r}?", ctx) from None

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Run, and turn an interruption into status 130, and a reader that went away into status 141."""
        try:
            result = super().main(*args, **{**kwargs, "standalone_mode": False}) or status.FINE
            if sys.stdout is not None:
                sys.stdout.flush()  # here, where a full disk can still be reported
            return result
        except SystemExit:
            if type(sys.stdout).__name__.endswith("PacifyFlushWrapper"):  # click met EPIPE, and would exit with 1
                sys.exit(status.OUTPUT_CLOSED)
            raise
        except OSError as error:
            if error.errno == errno.EPIPE and error.filename is None:
                _discard_output()
                sys.exit(status.OUTPUT_CLOSED)
            if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) or error.filename is not None:
                raise
            _discard_output()
            note(f"the output cannot be written: {error.strerror}; free space, or write elsewhere")
            sys.exit(status.UNSUPPORTED)
        except click.Abort:
            sys.exit(status.INTERRUPTED)
        except click.UsageError as error:
            if isinstance(error, _NO_ARGUMENTS):
                error.show()
                sys.exit(status.USAGE)
            path = error.ctx.command_path if error.ctx is not None else self._path_of(args, kwargs)
            print_to_stderr(f"{path}: {_shortened(error.format_message())} (see '{path} --help')")
            _note_missing_folder(error)
            sys.exit(status.USAGE)
        except click.ClickException as error:
            print_to_stderr(f"tailbite: {_shortened(error.format_message())}")
            _note_missing_folder(error)
            sys.exit(error.exit_code)

    def _path_of(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
        """Return the names of the commands in a command line: click does not, for a missing argument."""
        words = kwargs.get("args") or (args[0] if args else sys.argv[1:])
        group: click.Command | None = self
        names = ["tailbite"]
        for word in words:
            if not isinstance(group, LazyGroup) or word.startswith("-"):
                break
            if (group := group.get_command(click.Context(group), word)) is not None:
                names.append(word)
        return " ".join(names)


def _note_missing_folder(error: click.ClickException) -> None:
    """Say why a relative path leads nowhere, where the working directory was removed."""
    missing = (os.strerror(errno.ENOENT), "does not exist")
    if any(words in error.format_message() for words in missing) and is_working_directory_gone():
        note(GONE)


def _shortened(message: str) -> str:
    """Return a sentence about wrong input without what a terminal would obey; very long words are cut."""
    return re.sub(rf"(\S{{{_LONG}}})\S{{{_LONG},}}", r"\1...", plain(message))


def _discard_output() -> None:
    """Have Python write what is left in its buffer to nowhere: it would be tried again at the end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _refuse_system(name: str, callback: Callable[..., Any] | None, *args: Any, **options: Any) -> Any:
    """Refuse a command that needs Linux on another system; the pages of ``why --explain`` can be read anywhere."""
    if callback is not None and options.get("explain"):
        return callback(*args, **options)
    works = "the library, tailbite run --in-process and tailbite wait"
    raise Unsupported(f"{name} needs Linux, and this is {sys.platform}; what works here: {works}")


class _Front(LazyGroup):
    """The command itself, whose help is its front page."""

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        command = super().get_command(ctx, cmd_name)
        if command is not None and cmd_name in front.NEED_LINUX and not sys.platform.startswith("linux"):
            for one in command.commands.values() if isinstance(command, click.Group) else (command,):
                one.callback = partial(_refuse_system, cmd_name, one.callback)
        return command

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
