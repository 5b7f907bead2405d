"""A few lines for each library that connect with it: one attempt after the other to the same port.

The lines run in a process of their own, with ``HOST`` and ``PORT`` set; what they raise is an attempt that failed.
``PYTHON`` are the libraries that use Python's own sockets, ``C`` those that connect in C.
"""

from __future__ import annotations

from dataclasses import dataclass
from textwrap import dedent

__all__ = ["DRIVER", "PYTHON", "C", "Library"]


@dataclass(frozen=True)
class Library:
    """One library, and how to have it connect.

    Attributes:
        name: as PyPI spells it, or a module of the standard library.
        module: what must be importable.
        prepare: lines to run once.
        attempt: lines for one attempt.
        binds_first: True if it binds to port 0 before it connects.
    """

    name: str
    module: str
    prepare: str
    attempt: str
    binds_first: bool = False


DRIVER = """
import os, sys
HOST, PORT, GUARDED, TIMES = "127.0.0.1", int(sys.argv[1]), sys.argv[2] == "guarded", int(sys.argv[3])
if GUARDED:
    import tailbite
    tailbite.guard()
import warnings
warnings.simplefilter("ignore")
{prepare}
for number in range(TIMES):
    try:
{attempt}
    except Exception as error:
        print(number, type(error).__name__, str(error)[:200], flush=True)
    else:
        print(number, "no error", flush=True)
os._exit(0)
"""


def program(library: Library) -> str:
    """Return the program that dials TIMES times: ``python -c ... PORT guarded|plain TIMES``."""
    return DRIVER.format(
        prepare=dedent(library.prepare),
        attempt="\n".join(f"        {line}" for line in dedent(library.attempt).strip().splitlines()),
    )


def _asyncio(call: str) -> str:
    return f"asyncio.run(asyncio.wait_for({call}, 3))"


PYTHON = (
    Library("requests", "requests", "import requests", "requests.get(f'http://{HOST}:{PORT}/', timeout=2)"),
    Library(
        "urllib3",
        "urllib3",
        "import urllib3; pool = urllib3.PoolManager(retries=False)",
        "pool.request('GET', f'http://{HOST}:{PORT}/', timeout=2)",
    ),
    Library("httpx", "httpx", "import httpx", "httpx.get(f'http://{HOST}:{PORT}/', timeout=2)"),
    Library(
        "aiohttp",
        "aiohttp",
        """
        import aiohttp, asyncio
        async def get():
            async with aiohttp.ClientSession() as session:
                await session.get(f'http://{HOST}:{PORT}/')
        """,
        _asyncio("get()"),
    ),
    Library(
        "websockets",
        "websockets",
        """
        import asyncio, websockets
        async def dial():
            await websockets.connect(f'ws://{HOST}:{PORT}/')
        """,
        _asyncio("dial()"),
    ),
    Library(
        "websockets.sync",
        "websockets.sync.client",
        "from websockets.sync.client import connect",
        "connect(f'ws://{HOST}:{PORT}/', open_timeout=2)",
    ),
    Library(
        "redis",
        "redis",
        """
        import redis
        from redis.backoff import NoBackoff
        from redis.retry import Retry
        client = redis.Redis(HOST, PORT, socket_timeout=2, retry=Retry(NoBackoff(), 0))
        """,
        "client.ping()",
    ),
    Library("PyMySQL", "pymysql", "import pymysql", "pymysql.connect(host=HOST, port=PORT, connect_timeout=2)"),
    Library("pg8000", "pg8000", "import pg8000.dbapi", "pg8000.dbapi.connect('u', host=HOST, port=PORT, timeout=2)"),
    Library(
        "asyncpg",
        "asyncpg",
        "import asyncio, asyncpg",
        _asyncio("asyncpg.connect(host=HOST, port=PORT, user='u', ssl=False)"),
    ),
    Library(
        "pymongo",
        "pymongo",
        "import pymongo",
        "pymongo.MongoClient(HOST, PORT, serverSelectionTimeoutMS=300, connectTimeoutMS=1000).admin.command('ping')",
    ),
    Library(
        "paho-mqtt",
        "paho.mqtt.client",
        """
        import paho.mqtt.client as mqtt
        client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2)
        """,
        "client.connect(HOST, PORT)",
        binds_first=True,
    ),
    Library(
        "pika",
        "pika",
        """
        import pika, pika.compat, socket
        # Its wake-up pipe is a pair of TCP sockets, too many for a range of two ports.
        def pair():
            both = socket.socketpair()
            for end in both:
                end.setblocking(False)
            return both
        pika.compat.nonblocking_socketpair = pair
        parameters = pika.ConnectionParameters(HOST, PORT, connection_attempts=1, socket_timeout=2)
        """,
        "pika.BlockingConnection(parameters)",
    ),
    Library(
        "kafka-python",
        "kafka",
        "import kafka",
        "kafka.KafkaConsumer(bootstrap_servers=f'{HOST}:{PORT}', bootstrap_timeout_ms=300)",
    ),
    Library(
        "pymodbus",
        "pymodbus",
        "from pymodbus.client import ModbusTcpClient",
        "assert ModbusTcpClient(HOST, port=PORT, timeout=1, retries=0).connect()",
    ),
    Library(
        "kazoo", "kazoo", "from kazoo.client import KazooClient", "KazooClient(f'{HOST}:{PORT}').start(timeout=0.5)"
    ),
    Library(
        "ldap3",
        "ldap3",
        "import ldap3",
        "ldap3.Connection(ldap3.Server(HOST, PORT, connect_timeout=2), receive_timeout=2).bind()",
        binds_first=True,
    ),
    Library("smtplib", "smtplib", "import smtplib", "smtplib.SMTP(HOST, PORT, timeout=2)"),
    Library("ftplib", "ftplib", "import ftplib", "ftplib.FTP().connect(HOST, PORT, timeout=2)"),
    Library("imaplib", "imaplib", "import imaplib", "imaplib.IMAP4(HOST, PORT, timeout=2)"),
    Library("http.client", "http.client", "import http.client", "http.client.HTTPConnection(HOST, PORT).connect()"),
    Library(
        "logging.SocketHandler",
        "logging.handlers",
        "from logging.handlers import SocketHandler",
        "SocketHandler(HOST, PORT).makeSocket()",
    ),
    Library(
        "multiprocessing.connection",
        "multiprocessing.connection",
        "from multiprocessing.connection import Client",
        "Client((HOST, PORT))",
    ),
    Library("asyncio", "asyncio", "import asyncio", _asyncio("asyncio.open_connection(HOST, PORT)")),
    Library(
        "Twisted",
        "twisted",
        """
        from twisted.internet import endpoints, protocol, reactor
        from threading import Thread
        Thread(target=reactor.run, args=(False,), daemon=True).start()
        from twisted.internet.threads import blockingCallFromThread
        point = endpoints.TCP4ClientEndpoint(reactor, HOST, PORT, timeout=2)
        """,
        "blockingCallFromThread(reactor, point.connect, protocol.Factory.forProtocol(protocol.Protocol))",
    ),
    Library("trio", "trio", "import trio", "trio.run(trio.open_tcp_stream, HOST, PORT)"),
    Library("anyio", "anyio", "import anyio", "anyio.run(anyio.connect_tcp, HOST, PORT)"),
    Library("gevent", "gevent", "import gevent.socket", "gevent.socket.create_connection((HOST, PORT), timeout=2)"),
    Library(
        "gevent, patched",
        "gevent",
        """
        import gevent.monkey; gevent.monkey.patch_all()
        import urllib.request
        """,
        "urllib.request.urlopen(f'http://{HOST}:{PORT}/', timeout=2)",
    ),
)

C = (
    Library(
        "uvloop",
        "uvloop",
        """
        import asyncio, uvloop
        async def dial():
            await asyncio.wait_for(asyncio.open_connection(HOST, PORT), 3)
        """,
        "uvloop.run(dial())",
    ),
    Library(
        "psycopg", "psycopg", "import psycopg", "psycopg.connect(host=HOST, port=PORT, user='u', connect_timeout=2)"
    ),
    Library(
        "grpcio",
        "grpc",
        "import grpc",
        "grpc.channel_ready_future(grpc.insecure_channel(f'{HOST}:{PORT}')).result(timeout=0.5)",
    ),
    Library(
        "confluent-kafka",
        "confluent_kafka",
        "from confluent_kafka.admin import AdminClient",
        "AdminClient({'bootstrap.servers': f'{HOST}:{PORT}', 'log_level': 0}).list_topics(timeout=0.5)",
    ),
    Library(
        "pyzmq",
        "zmq",
        "import time, zmq; context = zmq.Context()",
        """
        dealer = context.socket(zmq.DEALER)
        dealer.connect(f'tcp://{HOST}:{PORT}')
        time.sleep(0.3)
        dealer.close(linger=0)
        """,
    ),
)
