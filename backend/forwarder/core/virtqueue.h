/* The device's side of a split virtqueue (virtio 1.2, 2.7), against a driver that may be hostile.
 *
 * Theory of operation. Whatever the guest writes is read once, into memory of our own, checked there, and used from
 * there: the index of the available ring, the head, each descriptor. A chain becomes a list of ranges in mapped guest
 * memory; that the guest may change the bytes in them is the caller's to bear in mind. Chains are taken with
 * virtqueue_pop(), given back with virtqueue_push(), and made visible with virtqueue_publish(), a batch at a time;
 * virtqueue_rewind() undoes what was not published. Nothing allocates. A chain costs at most CHAIN_PARTS descriptors,
 * however long the guest made it.
 *
 * Ordering: the available index is loaded with acquire before the entries that it announces; the used index is stored
 * with release behind the entries that it announces; a full barrier stands between our store and the load that tells
 * whether the guest wants to hear of it, as it does in the guest (2.7.7, 2.7.10).
 */
#ifndef SALLYPORT_VIRTQUEUE_H
#define SALLYPORT_VIRTQUEUE_H

#include <linux/virtio_ring.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#include "guest_memory.h"

#define QUEUE_MAX 1024 /* descriptors of a queue; QEMU's limit (VIRTQUEUE_MAX_SIZE) */
#define CHAIN_PARTS 24 /* ranges of a chain; a Linux guest's longest has 19 (MAX_SKB_FRAGS + 2) */

struct chain {
    uint64_t len; /* bytes of all parts together */
    uint32_t parts;
    uint16_t head;
    bool too_long; /* it has more than CHAIN_PARTS; those were not looked at, and `len` is not complete */
    struct iovec part[CHAIN_PARTS];
};

struct virtqueue {
    struct vring_desc *table; /* in the guest's memory, as the two following */
    uint16_t *available;      /* flags, index, ring[size], used_event */
    uint16_t *used;           /* flags, index, then 32-bit words: ring[size], and avail_event */
    uint32_t size;            /* a power of two */
    bool write;               /* buffers are for us to write (the guest's receive queue) */
    bool indirect;            /* VIRTIO_F_INDIRECT_DESC */
    bool event_index;         /* VIRTIO_F_EVENT_IDX */
    bool quiet;               /* we told the guest not to kick */
    uint16_t next;            /* index of the available ring that is taken next */
    uint16_t filled;          /* index of the used ring behind what was pushed */
    uint16_t published;       /* of it, what the guest sees */
    uint16_t signalled;       /* of it, what was weighed for an interrupt */
    enum fault fault;         /* the first; the queue gives nothing from then on */
};

/* The bytes of each part of a queue of `size` descriptors. */
static inline uint64_t virtqueue_table_bytes(uint32_t size) {
    return (uint64_t)size * sizeof(struct vring_desc);
}

static inline uint64_t virtqueue_available_bytes(uint32_t size) {
    return 6 + 2 * (uint64_t)size;
}

static inline uint64_t virtqueue_used_bytes(uint32_t size) {
    return 6 + 8 * (uint64_t)size;
}

/* Begin with rings whose place and size were checked, where the used ring says that we were. */
void virtqueue_start(struct virtqueue *queue);

/* How many chains the guest offers. */
uint32_t virtqueue_available(struct virtqueue *queue);

/* Take the next chain. Returns false if there is none, or when it is bad (`fault`). */
bool virtqueue_pop(struct virtqueue *queue, const struct guest_memory *memory, struct chain *chain);

/* Give a chain back, with `len` bytes written. */
void virtqueue_push(struct virtqueue *queue, uint16_t head, uint32_t len);

/* Undo the last `popped` pops and `pushed` pushes, none of which was published. */
void virtqueue_rewind(struct virtqueue *queue, uint32_t popped, uint32_t pushed);

/* Show the guest what was pushed. */
void virtqueue_publish(struct virtqueue *queue);

/* Does the guest want an interrupt for what was published since the last call? */
bool virtqueue_wants_signal(struct virtqueue *queue);

/* Ask to be kicked when `chains` (at least 1) are there. Returns true if they are already. */
bool virtqueue_want_kick(struct virtqueue *queue, uint32_t chains);

/* Ask not to be kicked. */
void virtqueue_no_kick(struct virtqueue *queue);

#endif
