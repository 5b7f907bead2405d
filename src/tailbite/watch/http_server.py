"""The exporter's HTTP side: /metrics, a health page, basic authentication, TLS, and sockets that systemd opened."""

from __future__ import annotations

import base64
import binascii
import errno
import hmac
import os
import socket
import ssl
import stat
import threading
from http import HTTPStatus
from socketserver import ThreadingMixIn
from typing import TYPE_CHECKING, Any, Final
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from prometheus_client import make_wsgi_app

from tailbite._files import read_whole

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path

    from prometheus_client import CollectorRegistry

    Application = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]

__all__ = ["activated_socket", "application", "listening_socket", "make_server", "read_passwords", "tls_context"]

_FIRST_DESCRIPTOR: Final = 3  # SD_LISTEN_FDS_START, sd_listen_fds(3)
_SLOW_CLIENT_S: Final = 10.0
_MOST_CLIENTS: Final = 32

_LANDING = b"""<!DOCTYPE html><title>tailbite exporter</title>
<h1>tailbite exporter</h1><p><a href="/metrics">Metrics</a> <a href="/-/healthy">Health</a></p>
"""


def application(
    registry: CollectorRegistry, health: Callable[[], str], passwords: Mapping[str, str] | None = None
) -> Application:
    """Return the WSGI application.

    Args:
        registry: the metrics.
        health: returns "" if all is well, or else a sentence that says what is not.
        passwords: by user name; None lets everyone in.
    """
    metrics = make_wsgi_app(registry)

    def respond(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        if passwords is not None and not _is_allowed(environ.get("HTTP_AUTHORIZATION", ""), passwords):
            headers = [("WWW-Authenticate", 'Basic realm="tailbite exporter", charset="UTF-8"')]
            return _page(
                start_response, HTTPStatus.UNAUTHORIZED, b"A user name and a password are needed.\n", headers
            )
        path = environ.get("PATH_INFO", "")
        if path == "/metrics":
            # A gauge x and a counter x_total are one name too many for OpenMetrics, so the classic format only.
            return metrics({**environ, "HTTP_ACCEPT": "text/plain"}, start_response)  # type: ignore[no-any-return]
        if path == "/-/healthy":
            trouble = health()
            if trouble:
                return _page(start_response, HTTPStatus.SERVICE_UNAVAILABLE, f"{trouble}\n".encode())
            return _page(start_response, HTTPStatus.OK, b"Healthy.\n")
        if path == "/":
            return _page(start_response, HTTPStatus.OK, _LANDING, kind="text/html")
        return _page(start_response, HTTPStatus.NOT_FOUND, b"There are /metrics and /-/healthy.\n")

    return respond


def _page(
    start_response: Callable[..., Any],
    status: HTTPStatus,
    body: bytes,
    headers: Iterable[tuple[str, str]] = (),
    kind: str = "text/plain",
) -> list[bytes]:
    fields = [("Content-Type", f"{kind}; charset=utf-8"), ("Content-Length", str(len(body))), *headers]
    start_response(f"{status.value} {status.phrase}", fields)
    return [body]


def _is_allowed(authorization: str, passwords: Mapping[str, str]) -> bool:
    scheme, _, credentials = authorization.partition(" ")
    if scheme.lower() != "basic":
        return False
    try:
        user, _, password = base64.b64decode(credentials, validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError):
        return False
    known = passwords.get(user)
    # The same time for every wrong password, and for a user that does not exist.
    is_right = hmac.compare_digest(password.encode(), (known or "").encode())
    return is_right and bool(known)


def read_passwords(path: Path) -> dict[str, str]:
    """Read a file with a line ``USER:PASSWORD`` for each user.

    Raises:
        OSError: it cannot be read.
        ValueError: others may read the file, or a line is not of that form.
    """
    mode = path.stat().st_mode
    if stat.S_ISREG(mode) and mode & (stat.S_IROTH | stat.S_IWOTH):
        raise ValueError(f"every user may read {path}: change its mode to 600")
    text = read_whole(path).decode()
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]
    pairs = [line.partition(":") for line in lines]
    if not pairs or not all(user and password for user, _, password in pairs):
        raise ValueError(f"{path} must have lines of the form USER:PASSWORD")
    return {user: password for user, _, password in pairs}


def tls_context(certificate: str, key: str | None, client_ca: str | None = None) -> ssl.SSLContext:
    """Return the context of a server with this certificate; with ``client_ca`` clients must have one too.

    Raises:
        OSError: a file cannot be read.
        ValueError: a file is not of the expected kind, or the key is encrypted or of another certificate.
    """
    for path in filter(None, (certificate, key, client_ca)):  # the errors of ssl do not name the file
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        is_regular = stat.S_ISREG(os.fstat(descriptor).st_mode)
        os.close(descriptor)
        if not is_regular:
            raise ValueError(f"{path} is not a regular file: it is read more than once, which a pipe does not allow")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(certificate, key, password=_refuse_password)
    except ssl.SSLError as error:
        if "MISMATCH" in (error.reason or ""):  # KEY_VALUES_ or KEY_TYPE_
            raise ValueError(f"the key in {key or certificate} is not that of the certificate") from None
        part = "a certificate and its key" if key is None else f"a certificate, or {key} not its key"
        raise ValueError(f"{certificate} is not {part}, in PEM") from None
    if client_ca is not None:
        try:
            context.load_verify_locations(client_ca)
        except ssl.SSLError:
            raise ValueError(f"{client_ca} has no certificate in PEM") from None
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def _refuse_password() -> str:
    """Refuse an encrypted key: OpenSSL would ask for its password on the terminal, which a service does not have."""
    raise ValueError("the key is encrypted: give one without a password, in a file that only the exporter may read")


def activated_socket(environment: Mapping[str, str] = os.environ) -> socket.socket | None:
    """Return the listening socket that systemd passed to this process (sd_listen_fds(3)), or None.

    Raises:
        OSError: what was passed is not a listening stream socket, or there is more than one.
    """
    if environment.get("LISTEN_PID") != str(os.getpid()):
        return None
    if environment.get("LISTEN_FDS") != "1":
        raise OSError(errno.EINVAL, f"systemd passed {environment.get('LISTEN_FDS')} sockets: the exporter takes one")
    sock = socket.socket(fileno=_FIRST_DESCRIPTOR)
    sock.set_inheritable(False)
    if sock.type != socket.SOCK_STREAM or not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        raise OSError(errno.EINVAL, "the socket that systemd passed does not listen: use ListenStream=")
    return sock


def listening_socket(host: str, port: int) -> socket.socket:
    """Return a socket that listens at an address; an empty host is every address, IPv6 and IPv4.

    Raises:
        OSError: the address is in use, is not of this host, or does not resolve.
    """
    if not host:
        if socket.has_dualstack_ipv6():
            return socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=64)
        return socket.create_server(("0.0.0.0", port), backlog=64)
    family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
    return socket.create_server((host, port), family=family, backlog=64)


class _Handler(WSGIRequestHandler):
    """One connection: one request, no log line, and not for longer than a client may take."""

    timeout = _SLOW_CLIENT_S

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name in http.server
        pass


class _Server(ThreadingMixIn, WSGIServer):
    """A thread for each connection, up to :data:`_MOST_CLIENTS`; TLS is negotiated in it, not in the accept loop."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, sock: socket.socket, tls: ssl.SSLContext | None) -> None:
        super().__init__(sock.getsockname()[:2] if sock.family != socket.AF_UNIX else ("", 0), _Handler, False)
        self.socket.close()
        self.socket = sock
        self._tls = tls
        self._places = threading.BoundedSemaphore(_MOST_CLIENTS)
        # What server_bind() would set, without the name service: it can block, and nobody reads it.
        self.server_name, self.server_port = "tailbite", 0
        self.setup_environ()

    def process_request(self, request: Any, client_address: Any) -> None:
        self._places.acquire()
        try:
            super().process_request(request, client_address)
        except BaseException:
            self._places.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            request.settimeout(_SLOW_CLIENT_S)
            if self._tls is not None:
                try:
                    request = self._tls.wrap_socket(request, server_side=True)
                except OSError:  # not TLS, or no certificate: the client's matter
                    self.shutdown_request(request)
                    return
            super().process_request_thread(request, client_address)
        finally:
            self._places.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of a client that went away."""


def make_server(sock: socket.socket, app: Application, tls: ssl.SSLContext | None = None) -> WSGIServer:
    """Return a server on a listening socket; call ``serve_forever()``."""
    server = _Server(sock, tls)
    server.set_app(app)
    return server
