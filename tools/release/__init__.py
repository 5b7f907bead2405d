"""The artefacts of a release: wheels, source, single file, packages for Debian and RPM systems, container image.

``make dist`` builds all but the image from a checkout; each contains the same files. ``make try-packages`` and
``make try-image`` install and use them as their users would.
"""
