"""Helpers for tests of programs that use tailbite: a scripted network, delays that are skipped, and a check.

- :func:`set_testing` removes the delays between attempts, and caps the attempts;
- :class:`FakeNetwork` is a network that follows a script under a virtual clock: refusals, silence, self-connects,
  servers that answer and vanish, for all three kinds of loops, without a port and without waiting;
- :func:`check_connector` puts any connecting function into a real namespace where a plain one connects to itself,
  and reports whether it does.
"""

from tailbite.reconnect.fake_network import Accept, Act, FakeNetwork, Refuse, SelfConnect, Silence
from tailbite.reconnect.rehearsal import set_testing
from tailbite.testkit.conformance import Check, check_connector

__all__ = [
    "Accept",
    "Act",
    "Check",
    "FakeNetwork",
    "Refuse",
    "SelfConnect",
    "Silence",
    "check_connector",
    "set_testing",
]
