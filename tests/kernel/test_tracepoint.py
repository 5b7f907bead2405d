"""Layouts of tracepoints, as kernels before and after 5.6 print them, and the running kernel's own."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from support.users import python_as_nobody
from tailbite.kernel.tracepoint import Field, parse_format, read_format

if TYPE_CHECKING:
    from pathlib import Path

TEXT = """name: inet_sock_set_state
ID: 1364
format:
\tfield:unsigned short common_type;\toffset:0;\tsize:2;\tsigned:0;
\tfield:int common_pid;\toffset:4;\tsize:4;\tsigned:1;

\tfield:const void * skaddr;\toffset:8;\tsize:8;\tsigned:0;
\tfield:int oldstate;\toffset:16;\tsize:4;\tsigned:1;
\tfield:int newstate;\toffset:20;\tsize:4;\tsigned:1;
\tfield:__u16 sport;\toffset:24;\tsize:2;\tsigned:0;
\tfield:__u16 dport;\toffset:26;\tsize:2;\tsigned:0;
\tfield:__u16 family;\toffset:28;\tsize:2;\tsigned:0;
\tfield:__u8 protocol;\toffset:30;\tsize:1;\tsigned:0;
\tfield:__u8 saddr[4];\toffset:31;\tsize:4;\tsigned:0;
\tfield:__u8 daddr[4];\toffset:35;\tsize:4;\tsigned:0;
\tfield:__u8 saddr_v6[16];\toffset:39;\tsize:16;\tsigned:0;
\tfield:__u8 daddr_v6[16];\toffset:55;\tsize:16;\tsigned:0;

print fmt: "family=%s protocol=%s", REC->family, REC->protocol
"""


def test_number_and_fields_of_linux_4_16() -> None:
    layout = parse_format(TEXT)
    assert layout.identifier == 1364
    assert layout.fields["newstate"] == Field(20, 4)
    assert layout.fields["protocol"] == Field(30, 1)
    assert layout.fields["daddr_v6"] == Field(55, 16)
    assert layout.fields["skaddr"] == Field(8, 8)


@pytest.mark.parametrize("text", ["", "name: x\n", "name: x\nID: 7\n", "name: x\nID: seven\n"])
def test_another_text_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        parse_format(text)


@pytest.mark.needs("BPF_TRACEPOINT")
def test_the_running_kernel_has_the_fields_whether_tracefs_is_mounted_or_not() -> None:
    fields = read_format("sock", "inet_sock_set_state").fields
    assert {"newstate", "sport", "dport", "family", "protocol", "saddr_v6", "daddr_v6"} <= fields.keys()


@pytest.mark.parametrize("variable", ["RUNTIME_DIRECTORY", "CREDENTIALS_DIRECTORY"])
def test_a_service_reads_the_copy_that_systemd_made(
    variable: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "inet_sock_set_state").write_text(TEXT)
    monkeypatch.setenv(variable, str(tmp_path))
    assert read_format("sock", "inet_sock_set_state").identifier == 1364


@pytest.mark.needs("BPF_TRACEPOINT")
def test_a_placeholder_instead_of_the_file_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SetCredential= has a value for a kernel without tracefs."""
    (tmp_path / "inet_sock_set_state").write_text("none")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    assert "newstate" in read_format("sock", "inet_sock_set_state").fields


@pytest.mark.skipif(sys.platform != "linux", reason="tracefs is Linux's")
def test_nobody_may_not_read_it() -> None:
    code = "from tailbite.kernel.tracepoint import read_format\n"
    code += (
        "try: read_format('sock', 'inet_sock_set_state')\nexcept OSError as error: print(error.errno in (1, 2, 13))"
    )
    assert subprocess.run(python_as_nobody("-c", code), capture_output=True, text=True).stdout == "True\n"
