/* A ring of frames between two threads.
 *
 * The indices run freely and wrap at 2^32; storage is rounded up to a power of two so that an index leads to its slot
 * by a mask. Each side keeps its shared index on a cache line of its own, and remembers the other's last value, so that
 * a batch touches the other's line once.
 */
#ifndef SALLYPORT_MEMORY_RING_H
#define SALLYPORT_MEMORY_RING_H

#include <stdlib.h>

#include "memory.h"

#define MEMORY_LINE 64 /* bytes of a cache line */

struct memory_ring {
    uint32_t slots;
    uint32_t mask;
    size_t stride; /* bytes from slot to slot */
    uint8_t *storage;

    _Alignas(MEMORY_LINE) uint32_t written; /* the producer's, shared */
    uint32_t put;                           /* the producer's own */
    uint32_t seen_read;

    _Alignas(MEMORY_LINE) uint32_t read; /* the consumer's, shared */
    uint32_t taken;                      /* the consumer's own */
    uint32_t seen_written;

    _Alignas(MEMORY_LINE) bool consumer_sleeps;
    bool producer_sleeps;
};

static inline int memory_ring_init(struct memory_ring *ring, unsigned slots, unsigned slot_bytes) {
    uint32_t storage_slots = 1;

    while (storage_slots < slots) {
        storage_slots *= 2;
    }
    ring->slots = slots;
    ring->mask = storage_slots - 1;
    ring->stride = (sizeof(struct memory_slot) + slot_bytes + MEMORY_LINE - 1) / MEMORY_LINE * MEMORY_LINE;
    ring->storage = aligned_alloc(MEMORY_LINE, ring->stride * storage_slots);
    return ring->storage == NULL ? -1 : 0;
}

static inline struct memory_slot *memory_ring_slot(const struct memory_ring *ring, uint32_t index) {
    return (struct memory_slot *)(void *)(ring->storage + ring->stride * (index & ring->mask));
}

/* Slots that the producer may fill; looks at the consumer's index only if fewer than `want` are known of. */
static inline uint32_t memory_ring_room(struct memory_ring *ring, uint32_t want) {
    uint32_t room = ring->slots - (ring->put - ring->seen_read);

    if (room < want) {
        ring->seen_read = __atomic_load_n(&ring->read, __ATOMIC_ACQUIRE);
        room = ring->slots - (ring->put - ring->seen_read);
    }
    return room;
}

static inline uint32_t memory_ring_ready(struct memory_ring *ring, uint32_t want) {
    uint32_t ready = ring->seen_written - ring->taken;

    if (ready < want) {
        ring->seen_written = __atomic_load_n(&ring->written, __ATOMIC_ACQUIRE);
        ready = ring->seen_written - ring->taken;
    }
    return ready;
}

static inline void memory_ring_publish(struct memory_ring *ring) {
    __atomic_store_n(&ring->written, ring->put, __ATOMIC_RELEASE);
}

static inline void memory_ring_return(struct memory_ring *ring) {
    __atomic_store_n(&ring->read, ring->taken, __ATOMIC_RELEASE);
}

#endif
