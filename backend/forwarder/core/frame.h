/* A frame on its way from one endpoint to another, and what an endpoint is.
 *
 * Theory of operation. An endpoint gives frames in place: `part` points at the bytes where they arrived (a slot of the
 * port's ring, a guest's memory), the sink copies them once to where they go. The exception is the head: where the
 * memory is a guest's, the first bytes are copied to `head` before anything looks at them, because the guest may write
 * to them at any time. The rest of the bytes decides nothing.
 *
 * All frames are preallocated by the caller; no endpoint allocates after its set-up.
 */
#ifndef SALLYPORT_FRAME_H
#define SALLYPORT_FRAME_H

#include <poll.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "policy.h"

#define FRAME_BATCH 64  /* frames moved at a time */
#define FRAME_PARTS 24  /* a Linux guest's largest chain has 19 (MAX_SKB_FRAGS + 2) */
#define FRAME_HEAD 160  /* bytes: tags, Ethernet, IPv6 or IPv4 with options, TCP with options */
#define FRAME_MAX 65553 /* bytes: the largest IPv4 or IPv6 GSO frame (65,535) with its Ethernet header and a tag */
#define ENDPOINT_BUSY (-1)
#define ENDPOINT_LOST (-2)
#define FRAME_POLLS 8 /* most file descriptors of one endpoint */

/* Work that was left for a network card (virtio 1.2, 5.1.6; the numbers are those of struct virtio_net_hdr). An
 * endpoint that reads it from a guest hands it on only as offload_from_guest() made it: derived from the frame's own
 * headers.
 */
struct offload {
    uint8_t flags;        /* VIRTIO_NET_HDR_F_NEEDS_CSUM, VIRTIO_NET_HDR_F_DATA_VALID */
    uint8_t gso_type;     /* VIRTIO_NET_HDR_GSO_NONE, _TCPV4, _TCPV6, either with _ECN */
    uint16_t hdr_len;     /* bytes in front of the TCP payload */
    uint16_t gso_size;    /* payload bytes of each segment */
    uint16_t csum_start;  /* bytes from the frame's start */
    uint16_t csum_offset; /* bytes from csum_start */
};

struct frame {
    struct iovec part[FRAME_PARTS]; /* part[0] is memory of our own and holds at least min(len, FRAME_HEAD) bytes, but
                                       for a tag: see tag_tpid */
    uint32_t parts;
    uint32_t len;      /* bytes of all parts together */
    uint16_t tag_tpid; /* 0, or a VLAN tag that belongs behind the first 12 bytes and is not among the parts */
    uint16_t tag_tci;
    struct offload offload;
    uint8_t head[FRAME_HEAD];
};

struct endpoint;

/* Every function is called from the data path's one thread, with the GIL released, and must not block. */
struct endpoint_ops {
    /* Up to `max` frames in arrival order. They stay valid until release(), which comes before the next receive().
     * Frames that the endpoint itself must refuse are counted by it and not given.
     */
    unsigned (*receive)(struct endpoint *, struct frame *frames, unsigned max);
    void (*release)(struct endpoint *);
    /* How many frames could be sent now, at least; a sink that is down takes everything and counts it. */
    unsigned (*room)(struct endpoint *);
    /* Take all `n` frames, in order: each is sent and counted as VERDICT_PASSED, or dropped and counted with the
     * reason. The bytes are copied before it returns. `counters` are those of the direction that the frames go.
     */
    void (*send)(struct endpoint *, struct frame *const *frames, unsigned n, struct counter *counters);
    /* Tell the other side of what receive(), release() and send() did, once a round (interrupts, doorbells). */
    void (*flush)(struct endpoint *);
    /* Before sleeping: ask to be woken for a frame (`want_frames`), for room to send (`want_room`). Returns how many
     * file descriptors were written to `fds` (at most FRAME_POLLS), ENDPOINT_BUSY if there is something to do already,
     * or ENDPOINT_LOST if this endpoint can never go on, so that the data path ends.
     */
    int (*arm)(struct endpoint *, struct pollfd *fds, bool want_frames, bool want_room);
    /* After sleeping, with what arm() gave, `revents` filled in: control traffic, doorbells, errors. */
    void (*wake)(struct endpoint *, const struct pollfd *fds, unsigned n);
    /* Is the other side there? */
    bool (*up)(struct endpoint *);
    void (*close)(struct endpoint *);
};

struct endpoint {
    const struct endpoint_ops *ops;
    enum direction from;      /* the direction of frames that come from here */
    struct counter *counters; /* of that direction; receive() counts what it refuses here */
};

/* One more frame of a verdict. Readers of the counters are other threads: plain 64-bit stores by the one writer. */
static inline void counter_add(struct counter *counters, enum verdict verdict, uint64_t frames, uint64_t bytes) {
    struct counter *counter = &counters[verdict];

    __atomic_store_n(&counter->frames, counter->frames + frames, __ATOMIC_RELAXED);
    __atomic_store_n(&counter->bytes, counter->bytes + bytes, __ATOMIC_RELAXED);
}

/* The tag that is out of band, as policy.h takes it. */
static inline uint32_t frame_outer_tag(const struct frame *frame) {
    return frame->tag_tpid == 0 ? 0 : (uint32_t)frame->tag_tpid << 16 | frame->tag_tci;
}

/* Frames on the wire that one frame becomes: 1, or the segments it is to be cut into. */
static inline uint32_t frame_segments(const struct frame *frame) {
    uint32_t payload;

    if (frame->offload.gso_size == 0 || frame->len <= frame->offload.hdr_len) {
        return 1;
    }
    payload = frame->len - frame->offload.hdr_len;
    return (payload + frame->offload.gso_size - 1) / frame->offload.gso_size;
}

/* Length of one frame on the wire, in bytes, without a tag that is out of band. */
static inline uint32_t frame_wire_len(const struct frame *frame) {
    return frame->offload.gso_size == 0 ? frame->len : (uint32_t)frame->offload.hdr_len + frame->offload.gso_size;
}

#endif
