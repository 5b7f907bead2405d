"""``tailbite lab handshake``: the segments of one self-connect."""

from __future__ import annotations

import pathlib
from typing import TYPE_CHECKING

import click

from tailbite._files import write_atomically
from tailbite.cli import status
from tailbite.cli.lab.files import Files, check_folder, experiment, writing
from tailbite.cli.lab.group import private_network
from tailbite.cli.output import Unsupported, emit_json, note
from tailbite.cli.params import PortNumber
from tailbite.kernel.pcap import pcap_header, pcap_record
from tailbite.lab.diagrams import mermaid_diagrams, text_diagram
from tailbite.lab.handshake import NoSelfConnect, Scene, capture_scenes, scenes_from_record, scenes_to_record

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["command"]


def _capture(port: int, pcap: Path | None) -> list[Scene]:
    private_network("a handshake")
    try:
        scenes, packets = capture_scenes(port)
    except NoSelfConnect as error:
        raise click.ClickException(str(error)) from error
    except OSError as error:
        raise Unsupported(error.strerror or str(error)) from error
    if pcap is not None:
        with writing():
            write_atomically(pcap, pcap_header() + b"".join(pcap_record(packet) for packet in packets))
        note(f"packets: {pcap}")
    return scenes


@click.command("handshake")
@click.option("--port", type=PortNumber(1024, 65534), default=32246, show_default=True, help="The dead port.")
@click.option("--mermaid", is_flag=True, help="Print Mermaid sequence diagrams for Markdown.")
@click.option(
    "--pcap",
    type=click.Path(dir_okay=False, path_type=pathlib.Path),
    help="Store the packets for Wireshark and tcpdump.",
)
@experiment("handshake")
@click.pass_context
def command(
    ctx: click.Context,
    port: int,
    mermaid: bool,
    pcap: Path | None,
    files: Files,
    as_json: bool,
) -> None:
    """Capture one self-connect and show its segments as RFC 9293 shows simultaneous open, both ends in one socket.

    The output also has an ordinary three-way handshake, and both ends of a self-connect: close (which leaves
    TIME-WAIT) and reset (which leaves nothing).

    \b
    Examples:
      tailbite lab handshake
      tailbite lab handshake --mermaid
      tailbite lab handshake --pcap self-connect.pcap

    Exit status: 0 if it was captured, 1 if no self-connect happened, 4 if this system does not permit a
    private network or the capture.
    """
    if files.stored:
        record, scenes = files.read(scenes_from_record)
    else:
        if pcap is not None:
            check_folder(pcap)
        scenes = _capture(port, pcap)
        record = scenes_to_record(scenes)
        files.store(record)
    if files.figure:
        from tailbite.lab.draw_handshake import draw_handshake

        files.draw_figure(lambda stem: draw_handshake(scenes, record.machine, stem))
    if as_json:
        emit_json("lab.handshake", scenes=scenes)
    elif mermaid:
        click.echo(mermaid_diagrams(scenes))
    else:
        click.echo("\n\n".join(text_diagram(scene) for scene in scenes))
    ctx.exit(status.FINE)
