"""The man page tailbite(8), made of the commands' own help; man(7) and groff_man_style(7) say how."""

from __future__ import annotations

import re
import textwrap
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tree import Command, Parameter

__all__ = ["man_page"]

_AFTER: Final = r""".SH EXIT STATUS
.TP
.B 0
All is well: nothing was found, or what was asked for is done.
.TP
.B 1
Something was found, a verdict was not met, or the server did not come.
.TP
.B 2
Wrong usage.
.TP
.B 3
Nothing was found, but not everything could be seen; what could not is said on standard error.
.TP
.B 4
This system lacks what the command needs, or does not permit it.
.TP
.B 130
Interrupted.
.PP
.B tailbite run
ends with the status of the program it started.
.SH ENVIRONMENT
.TP
.B NO_COLOR
If set, output has no colour, not even on a terminal.
.TP
.B XDG_STATE_HOME
Where the undo journal of a user who is not root lies, in
.IR tailbite/undo.json ;
.I \(ti/.local/state
if unset.
.SH FILES
.TP
.I /etc/sysctl.d/60-tailbite.conf
What
.B tailbite fix
reserves at boot, unless a file that is applied later decides about it: then that file is changed.
.TP
.I /var/lib/tailbite/undo.json
What
.B tailbite fix \-\-undo
takes back.
.SH EXAMPLES
A server says "Address already in use": who has its port?
.PP
.EX
.RS
tailbite why 32246
.RE
.EE
.PP
Which sockets of this host and of its containers are connected to themselves?
.PP
.EX
.RS
tailbite scan
.RE
.EE
.PP
Keep two ports from ever being drawn as source ports, now and after the next boot:
.PP
.EX
.RS
tailbite fix \-\-reserve 50051,8125
tailbite fix \-\-reserve 50051,8125 \-\-apply
.RE
.EE
.PP
Run a program that cannot connect to itself:
.PP
.EX
.RS
tailbite run \-\- telnet 127.0.0.1 32246
.RE
.EE
.SH SEE ALSO
.BR ip (7),
.BR tcp (7),
.BR network_namespaces (7),
.BR sock_diag (7),
.BR sysctl.d (5),
.BR ss (8),
.BR sysctl (8)
.PP
RFC 9293, section 3.5: simultaneous open.
"""


def man_page(root: Command, version: str) -> str:
    """Return the page in the man(7) language."""
    name = root.path[0]
    title, *rest = root.paragraphs
    lines = [
        r'.\" Made by "make man" from the help of the commands; change that.',
        f'.TH {name.upper()} 8 "" "{name} {version}" "System Manager\'s Manual"',
        ".SH NAME",
        rf"{name} \- {_text(title[0].lower() + title[1:].rstrip('.'))}",
        ".SH SYNOPSIS",
        *_usage(root),
        ".SH DESCRIPTION",
        *_paragraphs(rest),
        ".SH OPTIONS",
        *_options(root),
        ".SH COMMANDS",
    ]
    for command in root.walk()[1:]:
        lines.append(f".SS {_text(' '.join(command.path))}")
        lines += _usage(command)
        lines.append(".PP")
        lines += _paragraphs(command.paragraphs)
        lines += _options(command)
    return "\n".join(lines) + "\n" + _AFTER


def _usage(command: Command) -> list[str]:
    return [rf".B {_text(' '.join(command.path))}", _text(command.usage)]


def _paragraphs(paragraphs: tuple[str, ...] | list[str]) -> Iterator[str]:
    for number, paragraph in enumerate(paragraphs):
        if number:
            yield ".PP"
        if paragraph.startswith("\n"):
            yield ".EX"
            yield from (_line(_text(line)) for line in paragraph[1:].split("\n"))
            yield ".EE"
        else:
            yield from _wrapped(paragraph)


def _options(command: Command) -> Iterator[str]:
    for option in command.options:
        yield ".TP"
        yield _line(_flags(option))
        yield from _wrapped(option.help) if option.help else (r"\&",)


def _flags(option: Parameter) -> str:
    names = ", ".join(rf"\fB{_text(name)}\fR" for name in option.names)
    if not option.metavar:
        return names
    value = rf"\fI{_text(option.metavar.strip('[]'))}\fR"
    return f"{names} [{value}]" if option.value_is_optional else f"{names} {value}"


def _wrapped(text: str) -> Iterator[str]:
    for line in textwrap.wrap(text, 72, break_long_words=False, break_on_hyphens=False):
        yield _line(_text(line))


def _text(text: str) -> str:
    """Escape what roff would take for itself; `code` becomes bold."""
    text = text.replace("\\", r"\e").replace("-", r"\-").replace("'", r"\(aq").replace("~", r"\(ti")
    text = text.replace("^", r"\(ha")
    return re.sub(r"``?([^`]+)``?", r"\\fB\1\\fR", text)


def _line(text: str) -> str:
    """Keep a text line from being taken for a request."""
    return rf"\&{text}" if text[:1] in (".", "'") else text
