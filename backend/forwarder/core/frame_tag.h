/* A VLAN tag that lies beside a frame (struct frame, tag_tpid), put where it belongs: behind the two addresses (IEEE
 * 802.1Q, 9.3), which are in the frame's first part.
 */
#ifndef SALLYPORT_FRAME_TAG_H
#define SALLYPORT_FRAME_TAG_H

#include <linux/virtio_net.h>

#include "frame.h"

#define FRAME_ADDRESSES 12                    /* bytes of the two MAC addresses */
#define FRAME_TAGGED_PARTS (FRAME_PARTS + 2U) /* most that frame_tagged_parts() gives */

/* Bytes of the tag beside the frame. */
static inline uint32_t frame_tag_len(const struct frame *frame) {
    return frame->tag_tpid != 0 ? POLICY_TAG : 0;
}

/* The tag as on the wire. */
static inline void frame_tag_bytes(const struct frame *frame, uint8_t tag[POLICY_TAG]) {
    tag[0] = (uint8_t)(frame->tag_tpid >> 8);
    tag[1] = (uint8_t)frame->tag_tpid;
    tag[2] = (uint8_t)(frame->tag_tci >> 8);
    tag[3] = (uint8_t)frame->tag_tci;
}

/* The frame's bytes in order, the tag among them; empty parts are left out. `tag` is written, and must live as long as
 * the parts. Returns how many parts there are.
 */
static inline unsigned frame_tagged_parts(const struct frame *frame, uint8_t tag[POLICY_TAG], struct iovec *part) {
    unsigned n = 0;
    uint32_t i = 0;

    if (frame->tag_tpid != 0) {
        uint8_t *first = frame->part[0].iov_base;

        frame_tag_bytes(frame, tag);
        part[n++] = (struct iovec){.iov_base = first, .iov_len = FRAME_ADDRESSES};
        part[n++] = (struct iovec){.iov_base = tag, .iov_len = POLICY_TAG};
        if (frame->part[0].iov_len > FRAME_ADDRESSES) {
            part[n++] = (struct iovec){.iov_base = first + FRAME_ADDRESSES,
                                       .iov_len = frame->part[0].iov_len - FRAME_ADDRESSES};
        }
        i = 1;
    }
    for (; i < frame->parts; i++) {
        if (frame->part[i].iov_len > 0) {
            part[n++] = frame->part[i];
        }
    }
    return n;
}

/* What the header counts from the frame's beginning moves along with the tag. */
static inline void frame_tag_header(const struct frame *frame, struct virtio_net_hdr *header) {
    if (frame->tag_tpid == 0) {
        return;
    }
    if (header->flags & VIRTIO_NET_HDR_F_NEEDS_CSUM) {
        header->csum_start = (uint16_t)(header->csum_start + POLICY_TAG);
    }
    if (header->gso_size != 0) {
        header->hdr_len = (uint16_t)(header->hdr_len + POLICY_TAG);
    }
}

#endif
