"""Engine ``debian``: the root file systems from Debian packages."""
