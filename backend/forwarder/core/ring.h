/* Endpoint over a network interface: TPACKET ring in, batched send out (kernel:
 * Documentation/networking/packet_mmap.rst).
 *
 * Theory of operation. Version 2 of the ring and not 3: a frame of version 3 is seen when its block is full or its
 * timer has run out (1 ms at best), one of version 2 at once. Slots hold a normal frame; a GSO frame (segmentation or
 * receive offload) or a jumbo frame that does not fit is queued by the kernel on the socket as well
 * (PACKET_COPY_THRESH) and read from there when its slot's turn comes, so order is kept. Both sockets carry a
 * virtio_net_hdr before each frame (PACKET_VNET_HDR), so that checksums and segmentation which a sender left to the
 * hardware are told and handed on. The kernel takes the outer VLAN tag out of a frame; the frame carries it in
 * `tag_tpid`, `tag_tci` and send puts it back.
 *
 * The interface's own stack never takes part: the receiving socket gets frames before ingress hooks drop them, the
 * sending one bypasses queueing disciplines (PACKET_QDISC_BYPASS) and marks its frames, so that an egress hook can tell
 * them from whatever the stack might say.
 *
 * Everything that needs a capability happens in ring_open(). An interface that vanishes and comes back is found again
 * by its name, which needs none.
 */
#ifndef SALLYPORT_RING_H
#define SALLYPORT_RING_H

#include "frame.h"

#define RING_SLOT 2048 /* bytes: a frame of 1,514 bytes, one tag and the slot's own header */
#define RING_SLOTS 2048

/* Open an interface. `mac` (6 bytes, or NULL) is a further address that the interface shall take frames for; with it
 * all multicast is taken, too. Returns NULL with errno set; `step` then says what could not be done.
 */
struct endpoint *ring_open(const char *interface, const uint8_t *mac, enum direction from, const char **step);

#endif
