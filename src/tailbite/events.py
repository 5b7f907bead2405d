"""What happens to a persistent connection: the records that hooks get."""

from tailbite.connect.events import *  # noqa: F403 - a face: all of its names, and no others
from tailbite.connect.events import __all__ as __all__
