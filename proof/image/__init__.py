"""Checks of a flash image: tree/ of the files in it, flash/ of its bytes against the image that is rebuilt from it."""
