"""Verifiers: values for ``verify=`` that check whether the peer is the real server.

An established connection proves only that somebody accepted it. A verifier talks with the peer before the connection
is delivered, refuses every other server with a :class:`~tailbite.VerifyError` that describes its answer, and never
accepts its own echo::

    tailbite.connections(("db", 5432), verify=tailbite.verify.postgres)
    tailbite.wait("web:8080", verify=tailbite.verify.http("/health", status=204))

======================  =====================================================  ==================================
verifier                accepts                                                the caller's connection
======================  =====================================================  ==================================
``postgres``            PostgreSQL that takes logins (as pg_isready)           a second one: the first is spent
``redis``               +PONG, or "log in first", for PING                     the same; PING's answer is taken
``mysql``               a greeting of MySQL or MariaDB                         the same; the greeting is unread
``ssh``                 an identification SSH-2.0 or SSH-1.99                  the same; the greeting is unread
``smtp``                a greeting 220                                         the same; the greeting is unread
``http(path, status)``  a status of ``status`` for GET ``path``                a second one: the first is spent
``tls``                 a complete TLS handshake                               a second one: the first is spent
``tls(inside)``         the same, and what is inside the session               a second one: the first is spent
``banner(expected)``    a server that speaks first, and says that              the same; the greeting is unread
``send_expect(s, e)``   ``e`` as the answer to ``s``                           the same; ``e`` is taken
======================  =====================================================  ==================================

``postgres``, ``redis``, ``mysql``, ``ssh``, ``smtp`` and ``tls`` are used as they are, or called to change something:
``verify.redis(timeout=1)``. Every verifier takes ``timeout=``, seconds for the whole conversation, 5 if not given.
For any other protocol write your own: see :class:`Verifier`.
"""

from __future__ import annotations

from tailbite.verifiers.asking import Redis, SendExpect
from tailbite.verifiers.http import HTTP
from tailbite.verifiers.listening import SMTP, SSH, Banner, MySQL
from tailbite.verifiers.postgres import Postgres
from tailbite.verifiers.tls import TLS
from tailbite.verifiers.verification import Conversation, Receive, Send, Verifier

__all__ = [
    "HTTP",
    "SMTP",
    "SSH",
    "TLS",
    "Banner",
    "Conversation",
    "MySQL",
    "Postgres",
    "Receive",
    "Redis",
    "Send",
    "SendExpect",
    "Verifier",
    "banner",
    "http",
    "mysql",
    "postgres",
    "redis",
    "send_expect",
    "smtp",
    "ssh",
    "tls",
]

postgres: Postgres = Postgres()
redis: Redis = Redis()
mysql: MySQL = MySQL()
ssh: SSH = SSH()
smtp: SMTP = SMTP()
tls: TLS = TLS()
http = HTTP
banner = Banner
send_expect = SendExpect
