"""For tests of programs that use tailbite: a network that is played, delays that are not waited for, and a check.

- :func:`set_testing` removes the delays between attempts, and caps the attempts;
- :class:`FakeNetwork` plays a scripted network under a virtual clock: refusals, silence, self-connects, servers that
  answer and vanish, in all three shells, without a port and without waiting;
- :func:`check_connector` puts any connecting function into a real namespace where a plain one connects to itself,
  and tells whether it does.
"""

from tailbite.reconnect.fake_network import Accept, FakeNetwork, Refuse, SelfConnect, Silence
from tailbite.reconnect.rehearsal import set_testing
from tailbite.testkit.conformance import Check, check_connector

__all__ = [
    "Accept",
    "Check",
    "FakeNetwork",
    "Refuse",
    "SelfConnect",
    "Silence",
    "check_connector",
    "set_testing",
]
