#include "vhost_put.h"

#include <endian.h>
#include <string.h>

#include "cursor.h"
#include "frame_tag.h"
#include "offload.h"

/* Copy one frame into as many buffers as it needs. */
static enum verdict put_frame(struct vhost_user *device, const struct frame *frame, uint32_t *most_buffers) {
    struct virtqueue *queue = &device->ring[VHOST_RX].queue;
    bool mergeable = vhost_user_has(device, VIRTIO_NET_F_MRG_RXBUF);
    uint32_t left = frame->len + frame_tag_len(frame), buffers = 0;
    struct virtio_net_hdr_mrg_rxbuf header;
    struct iovec source[FRAME_TAGGED_PARTS], header_part = {.iov_base = &header, .iov_len = VHOST_HEADER};
    struct cursor from = {.part = source}, from_header = {.part = &header_part, .parts = 1};
    struct chain first, more;
    uint8_t tag[POLICY_TAG];

    from.parts = frame_tagged_parts(frame, tag, source);
    do {
        struct chain *chain = buffers == 0 ? &first : &more;
        struct cursor to;
        size_t skip = buffers == 0 ? VHOST_HEADER : 0, n;

        if (buffers > 0 && !mergeable) {
            virtqueue_rewind(queue, 1, 1);
            return VERDICT_OVERSIZED;
        }
        if (!virtqueue_pop(queue, &device->memory, chain)) {
            virtqueue_rewind(queue, buffers, buffers);
            return queue->fault == FAULT_NONE ? VERDICT_NO_BUFFER : VERDICT_DOWN;
        }
        if (chain->len < VHOST_HEADER) {
            queue->fault = FAULT_CHAIN_LENGTH; /* each buffer holds at least the header (5.1.6.3.1) */
            return VERDICT_DOWN;
        }
        to = (struct cursor){.part = chain->part, .parts = chain->parts};
        for (; skip > 0 && skip >= to.part->iov_len; to.part++, to.parts--) {
            skip -= to.part->iov_len;
        }
        to.offset = skip;
        n = cursor_copy(&to, &from, left);
        left -= (uint32_t)n;
        virtqueue_push(queue, chain->head, (uint32_t)n + (buffers == 0 ? VHOST_HEADER : 0));
        buffers++;
    } while (left > 0);
    memset(&header, 0, sizeof header);
    offload_to_header(frame, &header.hdr);
    frame_tag_header(frame, &header.hdr);
    header.num_buffers = htole16((uint16_t)buffers);
    cursor_copy(&(struct cursor){.part = first.part, .parts = first.parts}, &from_header, VHOST_HEADER);
    if (buffers > *most_buffers) {
        *most_buffers = buffers;
    }
    return VERDICT_PASSED;
}

/* Does the guest take the GSO frame whole? */
static bool takes_whole(const struct vhost_user *device, const struct frame *frame) {
    uint8_t kind = frame->offload.gso_type & (uint8_t)~VIRTIO_NET_HDR_GSO_ECN;

    if (frame->offload.gso_type & VIRTIO_NET_HDR_GSO_ECN && !vhost_user_has(device, VIRTIO_NET_F_GUEST_ECN)) {
        return false;
    }
    return (kind == VIRTIO_NET_HDR_GSO_TCPV4 && vhost_user_has(device, VIRTIO_NET_F_GUEST_TSO4)) ||
           (kind == VIRTIO_NET_HDR_GSO_TCPV6 && vhost_user_has(device, VIRTIO_NET_F_GUEST_TSO6));
}

/* Cut a GSO frame for a guest that does not take it whole. It passes if its first piece does: the rest is then lost
 * as on a wire.
 */
static enum verdict put_segments(struct vhost_user *device, const struct frame *frame, struct frame *segment,
                                 uint32_t *most_buffers) {
    uint32_t segments = frame_segments(frame);

    for (uint32_t i = 0; i < segments; i++) {
        enum verdict verdict =
            offload_segment(frame, i, segment) ? put_frame(device, segment, most_buffers) : VERDICT_OFFLOAD;

        if (verdict != VERDICT_PASSED) {
            return i == 0 ? verdict : VERDICT_PASSED;
        }
    }
    *most_buffers = segments > *most_buffers ? segments : *most_buffers;
    return VERDICT_PASSED;
}

enum verdict vhost_put(struct vhost_user *device, struct frame *frame, struct frame *segment, uint32_t *most_buffers) {
    if (frame->len < POLICY_ETHER) {
        return VERDICT_RUNT;
    }
    if (frame->offload.gso_size != 0 && !takes_whole(device, frame)) {
        return put_segments(device, frame, segment, most_buffers);
    }
    if (!vhost_user_has(device, VIRTIO_NET_F_GUEST_CSUM)) {
        if (!offload_complete_checksum(frame)) {
            return VERDICT_OFFLOAD;
        }
        frame->offload.flags = 0;
    }
    return put_frame(device, frame, most_buffers);
}
