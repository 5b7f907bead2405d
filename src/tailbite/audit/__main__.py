"""``python -m tailbite.audit`` is the warden: the process one audit runs in. It is not for people."""

from tailbite.audit.warden import be_the_warden

be_the_warden()
