"""What happens to a persistent connection: the records that hooks get."""

from tailbite.reconnect.events import *  # noqa: F403 - a face: all of its names, and no others
from tailbite.reconnect.events import __all__ as __all__
