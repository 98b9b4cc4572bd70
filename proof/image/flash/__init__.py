"""The whole flash image, byte by byte: what firmware or host would execute or trust, and everything beside it.

Theory of operation. Two parts of an image cannot be derived: its root file system and its kernel. `proof.image.tree`
checks the files of the first, and the manifest has the digests of both. From these two this checkout rebuilds the image
(`proof.image.rebuild`): verity tree, command line, initial RAM file system, unified kernel image, system partition,
data partition, partition table. Each byte that differs is a hole. So nothing has to be parsed to find that all is well,
and no tool is trusted with a file system or an archive that somebody prepared: the image is only taken apart to say
what differs.

If the recipe of the build is wrong, so is the rebuilt image. Therefore the shape is declared here besides: the
partitions, the files of both file systems, the sections that boot, the names in the initial RAM file system. A
`FlashCheck` must first find each planted control; only then its finding nothing counts.
"""

from proof.image.flash.flash_check import GROUP, FlashCheck, not_tested, run_flash_check
from proof.image.flash.view import View

__all__ = ["GROUP", "FlashCheck", "View", "not_tested", "run_flash_check"]
