"""Engine ``buildroot``: the release image, from source."""
