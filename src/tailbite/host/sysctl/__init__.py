"""sysctl.d(5) files: which there are, what they say of one setting, and the smallest edit that changes it."""
