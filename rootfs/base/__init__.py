"""Small shared parts of the build: step cache, tools tree, processes, downloads, errors."""
