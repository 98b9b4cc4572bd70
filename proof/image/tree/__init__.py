"""The files of an image, unpacked from the image itself: what is in them, and above all what is not.

Theory of operation. A `Check` looks through one `Tree` and returns what it objects to. Before its "nothing" is believed
it must object to the same thing planted: each check names what to plant, and `run_tree` does so, once for each plant,
in a scratch tree made of the few files that the check reads. What the host and the VM may contain is declared here,
path by path, and not learned from the build: a file that nobody declared is a hole.

The trees come from a file that somebody handed us. Nothing in them is followed, run or opened but regular files, each
by descriptors from the tree's root that refuse symbolic links (open(2): O_NOFOLLOW); numbers and sizes are bounded.
"""

from proof.image.tree.run import run_tree

__all__ = ["run_tree"]
