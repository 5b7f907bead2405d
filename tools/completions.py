"""Completions for bash, zsh and fish, made of the command tree: plain scripts that start nothing when TAB is hit."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tree import Command, Parameter

__all__ = ["bash", "fish", "zsh"]

_MADE = '# Made by "make man" from the commands; change those.\n'


def bash(root: Command) -> str:
    """Return a script for bash-completion's directory, which works without that package too (bash 3.2 or newer)."""
    cases = []
    for command in root.walk():
        words = " ".join(command.path)
        names = " ".join(name for option in command.options for name in option.names)
        below = " ".join(one.path[-1] for one in command.commands)
        cases.append(f'    "{words}") options="{names}" words="{below or _bash_argument(command)}" ;;')
    values = []
    for command in root.walk():
        for option in command.options:
            if option.takes_value and not option.value_is_optional:
                keys = " | ".join(f'"{" ".join(command.path)} {name}"' for name in option.names)
                values.append(f"    {keys}) {_bash_value(option)}; return ;;")
    groups = " | ".join(f'"{" ".join(command.path)}"' for command in root.walk() if command.commands)
    name = root.path[0]
    return f"""{_MADE}
_{name}_among() {{
  local choice
  for choice; do
    [[ $choice != "$word"* ]] || COMPREPLY+=("$(printf %q "$choice")")
  done
}}

_{name}() {{
  local word=${{COMP_WORDS[COMP_CWORD]}} before=${{COMP_WORDS[COMP_CWORD - 1]}} path={name} options words index
  COMPREPLY=()
  # bash splits words at = and :, and so may what we compare with.
  for ((index = 1; index < COMP_CWORD; index++)); do
    if [[ ${{COMP_WORDS[index]}} == -- ]]; then
      COMPREPLY=($(compgen -A command -A file -- "$word"))
      return
    fi
    case "$path" in
      {groups}) [[ ${{COMP_WORDS[index]}} == -* ]] || path="$path ${{COMP_WORDS[index]}}" ;;
    esac
  done
  case "$path $before" in
{chr(10).join(values)}
  esac
  case "$path" in
{chr(10).join(cases)}
    *) return ;;
  esac
  if [[ $word == -* ]]; then
    COMPREPLY=($(compgen -W "$options" -- "$word"))
  elif [[ $words == @file ]]; then
    COMPREPLY=($(compgen -A file -- "$word"))
  elif [[ $words == @command ]]; then
    COMPREPLY=($(compgen -A command -- "$word"))
  else
    COMPREPLY=($(compgen -W "$words" -- "$word"))
  fi
}}
complete -F _{name} {name}
"""


def _bash_argument(command: Command) -> str:
    for argument in command.arguments:
        if argument.kind in ("file", "command"):
            return f"@{argument.kind}"
    return ""


def _bash_value(option: Parameter) -> str:
    if option.choices:
        return f"_tailbite_among {' '.join(map(_quote, option.choices))}"
    return {
        "file": 'COMPREPLY=($(compgen -A file -- "$word"))',
        "directory": 'COMPREPLY=($(compgen -A directory -- "$word"))',
        "netns": 'COMPREPLY=($(compgen -W "all self $(ls /run/netns 2>/dev/null)" -- "$word"))',
    }.get(option.kind, "COMPREPLY=()")


def zsh(root: Command) -> str:
    """Return a function for a directory of zsh's fpath (zshcompsys(1))."""
    name = root.path[0]
    parts = [_zsh_function(command) for command in root.walk()]
    netns = f"_{name}_netns() {{\n  compadd - all self /run/netns/*(N:t)\n}}\n"
    return f"#compdef {name}\n{_MADE}\n" + "\n".join((netns, *parts)) + f'\n_{name} "$@"\n'


def _zsh_function(command: Command) -> str:
    name = "_" + "_".join(command.path).replace("-", "_")
    specs = [spec for option in command.options for spec in _zsh_option(option)]
    if not command.commands:
        specs += [_zsh_argument(argument) for argument in command.arguments]
        body = " \\\n    ".join(["_arguments -s -S", *specs])
        return f"{name}() {{\n  {body}\n}}\n"
    body = " \\\n    ".join(["_arguments -s -S -C", *specs, "'1: :->command'", "'*:: :->rest'"])
    described = "\n      ".join(_quote(f"{one.path[-1]}:{_plain(one.summary)}") for one in command.commands)
    calls = "\n        ".join(
        f"{one.path[-1]}) _{'_'.join(one.path).replace('-', '_')} ;;" for one in command.commands
    )
    return f"""{name}() {{
  local context state state_descr line
  typeset -A opt_args
  {body}
  case $state in
    command)
      local -a commands=(
      {described}
      )
      _describe command commands ;;
    rest)
      case $line[1] in
        {calls}
      esac ;;
  esac
}}
"""


def _zsh_option(option: Parameter) -> list[str]:
    told = _plain(option.help).replace("[", r"\[").replace("]", r"\]").replace(":", r"\:")
    value = ""
    if option.takes_value:
        colon = "::" if option.value_is_optional else ":"
        value = f"{colon}{_plain(option.metavar).strip('[]').replace(':', ' ')}:{_zsh_action(option)}"
    # A long option with an optional value takes it behind a blank as well.
    return [_quote(f"{name}[{told}]{value}") for name in option.names]


def _zsh_argument(argument: Parameter) -> str:
    label = _plain(argument.metavar).strip("[].").replace(":", " ").lower() or "argument"
    if argument.kind == "command":
        return "'*:: :_normal'" if argument.is_many else f"'1:{label}:_command_names -e'"
    place = "*" if argument.is_many else ""
    return _quote(f"{place}:{label}:{_zsh_action(argument)}")


def _zsh_action(one: Parameter) -> str:
    if one.choices:
        return f"({' '.join(choice.replace(' ', chr(92) + ' ') for choice in one.choices)})"
    return {"file": "_files", "directory": "_files -/", "netns": "_tailbite_netns"}.get(one.kind, " ")


def fish(root: Command) -> str:
    """Return a script for fish's vendor_completions.d (complete(1))."""
    name = root.path[0]
    lines = [
        _MADE,
        f"function __{name}_at --description 'the words before the cursor name this command'",
        "    set -l words",
        "    for word in (commandline -opc)[2..-1]",
        "        if test $word = --",
        "            return 1",
        "        end",
        "        string match -q -- '-*' $word; or set -a words $word",
        "    end",
        "    set -l mode $argv[1]",
        "    set -e argv[1]",
        "    set -l depth (count $argv)",
        "    test (count $words) -ge $depth; or return 1",
        "    test $mode = exactly -a (count $words) -ne $depth; and return 1",
        "    test $depth -eq 0; and return 0",
        '    test "$words[1..$depth]" = "$argv"',
        "end",
        "",
        f"function __{name}_rest --description 'complete the command line behind --'",
        "    set -l words (commandline -opc)",
        "    set -e words[1..(contains -i -- -- $words)]",
        "    complete -C (string join ' ' -- $words (commandline -ct))",
        "end",
        "",
        f"complete -c {name} -f",
        f"complete -c {name} -n 'contains -- -- (commandline -opc)' -a '(__{name}_rest)'",
    ]
    for command in root.walk():
        below = " ".join(command.path[1:])
        inside = f"__{name}_at inside {below}".rstrip() if below else f"__{name}_at exactly"
        for one in command.commands:
            lines.append(
                f"complete -c {name} -n '__{name}_at exactly{f' {below}' if below else ''}' "
                f"-a {one.path[-1]} -d {_quote(_plain(one.summary))}"
            )
        lines += [f"complete -c {name} -n '{inside}' {_fish_option(option)}" for option in command.options]
        for argument in command.arguments:
            action = _fish_action(argument)
            if action:
                lines.append(f"complete -c {name} -n '{inside}' {action}")
    return "\n".join(lines) + "\n"


def _fish_option(option: Parameter) -> str:
    names = [f"-l {name[2:]}" if name.startswith("--") else f"-s {name[1:]}" for name in option.names]
    value = ""
    if option.takes_value and not option.value_is_optional:
        value = f" -r {_fish_action(option) or '-f'}"
    return f"{' '.join(names)}{value} -d {_quote(_plain(option.help))}"


def _fish_action(one: Parameter) -> str:
    if one.choices:
        return f'-f -a "{" ".join(map(_quote, one.choices))}"'
    return {
        "file": "-F",
        "directory": "-f -a '(__fish_complete_directories)'",
        "netns": "-f -a 'all self (path basename /run/netns/* 2>/dev/null)'",
        "command": "-f -a '(__fish_complete_subcommand --fcs-skip=2)'",
    }.get(one.kind, "")


def _plain(text: str) -> str:
    """Return the first sentence, without what would need quoting twice."""
    first = text.split(". ")[0].removesuffix(".").partition("; ")[0]
    return first.replace("`", "")


def _quote(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"
