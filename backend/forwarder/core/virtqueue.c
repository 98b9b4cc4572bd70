#include "virtqueue.h"

#include <endian.h>

/* Offsets in the rings, in 16-bit words (virtio 1.2, 2.7.6 and 2.7.8). */
enum { RING_FLAGS, RING_INDEX, RING_ENTRIES };

static uint16_t load(const uint16_t *at) {
    return le16toh(__atomic_load_n(at, __ATOMIC_RELAXED));
}

static void store(uint16_t *at, uint16_t value) {
    __atomic_store_n(at, htole16(value), __ATOMIC_RELAXED);
}

static uint16_t *used_event(const struct virtqueue *queue) {
    return queue->available + RING_ENTRIES + queue->size;
}

static uint16_t *avail_event(const struct virtqueue *queue) {
    return queue->used + RING_ENTRIES + queue->size * (sizeof(struct vring_used_elem) / sizeof(uint16_t));
}

static bool fail(struct virtqueue *queue, enum fault fault) {
    if (queue->fault == FAULT_NONE) {
        queue->fault = fault;
    }
    return false;
}

void virtqueue_start(struct virtqueue *queue) {
    uint16_t used = load(queue->used + RING_INDEX);

    /* All that was ever taken was given back in order, so the used index is also the place in the available ring:
     * after a restart of this process as well, when nobody else remembers it.
     */
    queue->next = queue->filled = queue->published = queue->signalled = used;
    queue->fault = FAULT_NONE;
    queue->quiet = true;
    virtqueue_no_kick(queue);
}

uint32_t virtqueue_available(struct virtqueue *queue) {
    uint16_t index, ahead;

    if (queue->fault != FAULT_NONE) {
        return 0;
    }
    index = le16toh(__atomic_load_n(queue->available + RING_INDEX, __ATOMIC_ACQUIRE));
    ahead = (uint16_t)(index - queue->next);
    if (ahead > queue->size) {
        fail(queue, FAULT_AVAILABLE);
        return 0;
    }
    return ahead;
}

/* Append the range of one descriptor, checked. */
static bool take_part(struct virtqueue *queue, const struct guest_memory *memory, const struct vring_desc *descriptor,
                      struct chain *chain) {
    uint32_t len = le32toh(descriptor->len);
    void *at;

    if (((le16toh(descriptor->flags) & VRING_DESC_F_WRITE) != 0) != queue->write) {
        return fail(queue, FAULT_CHAIN_DIRECTION);
    }
    if (len == 0) {
        return fail(queue, FAULT_CHAIN_LENGTH);
    }
    at = guest_memory_at(memory, le64toh(descriptor->addr), len);
    if (at == NULL) {
        return fail(queue, FAULT_CHAIN_ADDRESS);
    }
    chain->part[chain->parts++] = (struct iovec){.iov_base = at, .iov_len = len};
    chain->len += len;
    return true;
}

/* Follow a chain from `index`. An indirect table may end a chain of the queue's own table (2.7.5.3.2). */
static bool walk(struct virtqueue *queue, const struct guest_memory *memory, uint32_t index, struct chain *chain) {
    const uint8_t *table = (const uint8_t *)queue->table;
    uint32_t size = queue->size, steps = 0;
    bool nested = false;

    for (;;) {
        struct vring_desc descriptor;
        uint16_t flags;

        if (index >= size) {
            return fail(queue, FAULT_CHAIN_INDEX);
        }
        if (steps++ >= size) {
            return fail(queue, FAULT_CHAIN_LOOP);
        }
        guest_memory_copy(&descriptor, table + (size_t)index * sizeof descriptor, sizeof descriptor);
        flags = le16toh(descriptor.flags);
        if (flags & VRING_DESC_F_INDIRECT) {
            uint32_t len = le32toh(descriptor.len);

            if (nested || !queue->indirect || flags & VRING_DESC_F_NEXT || len == 0 || len % sizeof descriptor != 0 ||
                len / sizeof descriptor > QUEUE_MAX) {
                return fail(queue, FAULT_CHAIN_INDIRECT);
            }
            table = guest_memory_at(memory, le64toh(descriptor.addr), len);
            if (table == NULL) {
                return fail(queue, FAULT_CHAIN_ADDRESS);
            }
            nested = true;
            size = len / (uint32_t)sizeof descriptor;
            index = steps = 0;
            continue;
        }
        if (!take_part(queue, memory, &descriptor, chain)) {
            return false;
        }
        if (!(flags & VRING_DESC_F_NEXT)) {
            return true;
        }
        if (chain->parts == CHAIN_PARTS) {
            /* The rest is not looked at: it would cost us, and the guest nothing, to make it as long as the table. The
             * head alone gives the whole chain back (2.7.8).
             */
            chain->too_long = true;
            return true;
        }
        index = le16toh(descriptor.next);
    }
}

bool virtqueue_pop(struct virtqueue *queue, const struct guest_memory *memory, struct chain *chain) {
    uint16_t head;

    if (virtqueue_available(queue) == 0) {
        return false;
    }
    head = load(queue->available + RING_ENTRIES + (queue->next & (queue->size - 1)));
    chain->head = head;
    chain->parts = 0;
    chain->len = 0;
    chain->too_long = false;
    if (!walk(queue, memory, head, chain)) {
        return false;
    }
    queue->next++;
    return true;
}

void virtqueue_push(struct virtqueue *queue, uint16_t head, uint32_t len) {
    struct vring_used_elem *ring = (struct vring_used_elem *)(void *)(queue->used + RING_ENTRIES);

    ring[queue->filled & (queue->size - 1)] = (struct vring_used_elem){.id = htole32(head), .len = htole32(len)};
    queue->filled++;
}

void virtqueue_rewind(struct virtqueue *queue, uint32_t popped, uint32_t pushed) {
    queue->next = (uint16_t)(queue->next - popped);
    queue->filled = (uint16_t)(queue->filled - pushed);
}

void virtqueue_publish(struct virtqueue *queue) {
    if (queue->published != queue->filled) {
        queue->published = queue->filled;
        __atomic_store_n(queue->used + RING_INDEX, htole16(queue->published), __ATOMIC_RELEASE);
    }
}

bool virtqueue_wants_signal(struct virtqueue *queue) {
    uint16_t before = queue->signalled;

    if (queue->published == before) {
        return false;
    }
    queue->signalled = queue->published;
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    if (queue->event_index) {
        return vring_need_event(load(used_event(queue)), queue->published, before) != 0;
    }
    return !(load(queue->available + RING_FLAGS) & VRING_AVAIL_F_NO_INTERRUPT);
}

bool virtqueue_want_kick(struct virtqueue *queue, uint32_t chains) {
    if (queue->event_index) {
        store(avail_event(queue), (uint16_t)(queue->next + chains - 1));
    } else if (queue->quiet) {
        store(queue->used + RING_FLAGS, 0);
    }
    queue->quiet = false;
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    return virtqueue_available(queue) >= chains;
}

void virtqueue_no_kick(struct virtqueue *queue) {
    queue->quiet = true;
    /* With event indices, an index that was passed already asks for nothing. */
    if (!queue->event_index) {
        store(queue->used + RING_FLAGS, VRING_USED_F_NO_NOTIFY);
    }
}
