"""A root tree: overlays, kernel, initial RAM file system, compiled extension, front-end VM image."""
