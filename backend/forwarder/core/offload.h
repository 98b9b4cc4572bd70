/* Checksum and segmentation work that a sender left for a network card. */
#ifndef SALLYPORT_OFFLOAD_H
#define SALLYPORT_OFFLOAD_H

#include <linux/virtio_net.h>

#include "frame.h"

#define OFFLOAD_MIN_SEGMENT 256 /* bytes of payload; below, a guest could turn one frame into hundreds */

/* Replace what a guest asks for by what its frame's headers (in part[0]) bear out: a TCP or UDP checksum at its proper
 * place, a TCP segmentation of a length that the headers agree with. Returns false if they do not; the frame is then
 * to be dropped as VERDICT_OFFLOAD.
 */
bool offload_from_guest(struct frame *frame, const struct virtio_net_hdr *asked);

/* Take what the kernel tells of a frame. Its `hdr_len` is a hint of no use here and replaced by what the headers say.
 */
void offload_from_kernel(struct frame *frame, const struct virtio_net_hdr *header);

/* The header for a receiver that does the work itself (a guest that negotiated it, the kernel). It counts the frame's
 * parts: who puts a tag back in front of what it points at adds POLICY_TAG.
 */
void offload_to_header(const struct frame *frame, struct virtio_net_hdr *header);

/* Do the checksum here, into memory of our own: part[0] is replaced by a copy in frame->head if it is not there yet.
 * Returns false if the checksum's place is not within part[0].
 */
bool offload_complete_checksum(struct frame *frame);

/* Cut segment number `index` (of frame_segments()) out of a TCP GSO frame, with its lengths, sequence number, flags
 * and checksums done. Its payload stays in the GSO frame's memory. Returns false if the headers do not bear it out.
 */
bool offload_segment(const struct frame *frame, uint32_t index, struct frame *segment);

#endif
