"""The files of an image, unpacked from the image itself: what they contain, and what they must not contain.

Theory of operation. A `Check` searches one `Tree` and yields what is wrong in it. It names planted controls: `run_tree`
plants each in a scratch tree of its own, made of the few files that the check reads, and the check must find it; only
then its finding nothing counts. What the host and the VM may contain is declared here, path by path, and not taken from
the build: a file that is not declared is a hole.

The trees are hostile input. Only regular files are opened, by descriptors from the tree's root that refuse symbolic
links (open(2): O_NOFOLLOW); nothing is followed or run; numbers and sizes are bounded.
"""

from proof.image.tree.run import run_tree

__all__ = ["run_tree"]
