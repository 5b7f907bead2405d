"""``tailbite schema``: the JSON Schemas of what the commands print."""

from __future__ import annotations

import re
from importlib import resources

import click

from tailbite.cli import status

__all__ = ["UnknownSchema", "command", "known_schemas", "read_schema"]

_FILES = "tailbite.cli.schemas"
_NAME = re.compile(r"([a-z][a-z.-]*)\.json")


class UnknownSchema(ValueError):  # noqa: N818 - named like UnknownNamespace
    """There is no schema of that name; the message lists the names."""


def known_schemas() -> tuple[str, ...]:
    """Return the names of all schemas, in alphabetical order."""
    return tuple(
        sorted(match[1] for entry in resources.files(_FILES).iterdir() if (match := _NAME.fullmatch(entry.name)))
    )


def read_schema(name: str) -> str:
    """Return a schema as JSON text.

    Raises:
        UnknownSchema: no schema has that name.
    """
    known = known_schemas()
    if name not in known:
        raise UnknownSchema(f"there is no schema {name!r}; there are: {', '.join(known)}")
    return (resources.files(_FILES) / f"{name}.json").read_text(encoding="utf-8")


@click.command("schema")
@click.argument("name", required=False, metavar="[NAME]")
def command(name: str | None) -> int:
    """Print the JSON Schema of the documents of a command; without a name, list them.

    Each document names its schema in its first field, "schema": "tailbite.NAME/VERSION". A version stays as it is: a
    field that changes its meaning gets a new version.

    \b
    Examples:
      tailbite schema
      tailbite schema scan > scan.schema.json

    Exit status: 0, or 2 for a name that is not known.
    """
    if name is None:
        for each in known_schemas():
            click.echo(each)
        return status.FINE
    try:
        click.echo(read_schema(name), nl=False)
    except UnknownSchema as error:
        raise click.UsageError(str(error)) from None
    return status.FINE
