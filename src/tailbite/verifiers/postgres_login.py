"""The client's half of PostgreSQL's password logins: MD5, and SCRAM-SHA-256 (RFC 5802 and 7677); pure.

Clear-text passwords are not among them: the server that asks for one has not shown who it is.
"""

from __future__ import annotations

import hmac
import secrets
import unicodedata
from base64 import b64decode, b64encode
from hashlib import md5, pbkdf2_hmac, sha256

__all__ = ["MECHANISM", "Scram", "md5_response"]

MECHANISM = b"SCRAM-SHA-256"
_MOST_ITERATIONS = 1_000_000
"""A server that asks for more wants to keep this process busy; PostgreSQL's default is 4096."""


def md5_response(user: str, password: str, salt: bytes) -> bytes:
    """Return the answer to AuthenticationMD5Password (PostgreSQL documentation, "Message Flow")."""
    inner = md5((password + user).encode(), usedforsecurity=False).hexdigest()
    return b"md5" + md5(inner.encode() + salt, usedforsecurity=False).hexdigest().encode() + b"\0"


class Scram:
    """One exchange of SCRAM-SHA-256 without channel binding.

    Args:
        password: the password.
        nonce: printable text that was never used before; chosen here if not given.
        user: the user name; PostgreSQL takes it from its startup message, and ignores this one.
    """

    def __init__(self, password: str, nonce: str | None = None, user: str = "") -> None:
        self._user = user.encode()
        self._password = unicodedata.normalize("NFKC", password).encode()  # SASLprep, but for its prohibitions
        self._nonce = (nonce or secrets.token_urlsafe(18)).encode()
        self._signature = b""

    @property
    def first(self) -> bytes:
        """The first message."""
        return b"n,," + self._first_bare

    @property
    def _first_bare(self) -> bytes:
        return b"n=" + self._user + b",r=" + self._nonce

    def final(self, server_first: bytes) -> bytes:
        """Return the second message, the proof.

        Raises:
            ValueError: the server's message is not valid.
        """
        fields = dict(part.partition(b"=")[::2] for part in server_first.split(b","))
        nonce, rounds = fields.get(b"r", b""), int(fields.get(b"i", b""))
        if not nonce.startswith(self._nonce) or nonce == self._nonce or not 0 < rounds <= _MOST_ITERATIONS:
            raise ValueError("not a valid SCRAM message")
        salted = pbkdf2_hmac("sha256", self._password, b64decode(fields.get(b"s", b""), validate=True), rounds)
        without_proof = b"c=biws,r=" + nonce
        everything = b",".join((self._first_bare, server_first, without_proof))
        client_key = hmac.digest(salted, b"Client Key", "sha256")
        mask = hmac.digest(sha256(client_key).digest(), everything, "sha256")
        proof = bytes(a ^ b for a, b in zip(client_key, mask, strict=True))
        self._signature = hmac.digest(hmac.digest(salted, b"Server Key", "sha256"), everything, "sha256")
        return without_proof + b",p=" + b64encode(proof)

    def is_from_server(self, server_final: bytes) -> bool:
        """Tell whether the server's last message shows that it knows the password."""
        return hmac.compare_digest(server_final, b"v=" + b64encode(self._signature))
