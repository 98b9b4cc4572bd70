"""The whole flash image, byte by byte: what firmware or host would execute or trust, and everything beside it.

Theory of operation. Two things of an image cannot be derived: its root file system and its kernel. The first is looked
through by `proof.image.tree`, both are named by the manifest. From these two the image is made anew by this checkout
(`proof.image.rebuild`): verity tree, command line, initial RAM file system, unified kernel image, system partition,
data partition, partition table. What is not the same is named: so nothing is parsed to find that all is well, and no
tool has to be trusted with a file system or an archive that somebody prepared. It is only taken apart to say what
differs.

An image made anew by a recipe that is wrong would be wrong, too. So the shape is declared here besides, and looked up
in the image: the partitions, the files of both file systems, the sections that boot, the names in the initial RAM file
system. As everywhere, a `FlashCheck` must object to each fault that is planted before its "nothing" is believed.
"""

from proof.image.flash.flash_check import GROUP, FlashCheck, not_tested, run_flash_check
from proof.image.flash.view import View

__all__ = ["GROUP", "FlashCheck", "View", "not_tested", "run_flash_check"]
