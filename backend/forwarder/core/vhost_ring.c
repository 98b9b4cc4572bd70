#include "vhost_ring.h"

#include <errno.h>
#include <poll.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

void vhost_ring_close_file(int *file) {
    if (*file >= 0) {
        close(*file);
    }
    *file = -1;
}

void vhost_ring_reset(struct vhost_ring *ring, bool write) {
    vhost_ring_close_file(&ring->kick);
    vhost_ring_close_file(&ring->call);
    *ring = (struct vhost_ring){.kick = -1, .call = -1, .queue = {.write = write}};
}

enum fault vhost_ring_place(struct vhost_ring *ring, const struct guest_memory *memory) {
    struct virtqueue *queue = &ring->queue;

    /* Alignment: virtio 1.2, 2.7. */
    if (ring->table % 16 != 0 || ring->available % 2 != 0 || ring->used % 4 != 0) {
        return FAULT_QUEUE_ADDRESS;
    }
    queue->table = guest_memory_user(memory, ring->table, virtqueue_table_bytes(ring->size));
    queue->available = guest_memory_user(memory, ring->available, virtqueue_available_bytes(ring->size));
    queue->used = guest_memory_user(memory, ring->used, virtqueue_used_bytes(ring->size));
    if (queue->table == NULL || queue->available == NULL || queue->used == NULL) {
        return FAULT_QUEUE_ADDRESS;
    }
    return FAULT_NONE;
}

enum fault vhost_ring_start(struct vhost_ring *ring, const struct guest_memory *memory, uint64_t features) {
    enum fault fault;

    if (features == 0 || ring->size == 0 || !ring->addressed) {
        return FAULT_ORDER;
    }
    fault = vhost_ring_place(ring, memory);
    if (fault != FAULT_NONE) {
        return fault;
    }
    ring->queue.size = ring->size;
    ring->queue.indirect = (features >> VIRTIO_RING_F_INDIRECT_DESC & 1) != 0;
    ring->queue.event_index = (features >> VIRTIO_RING_F_EVENT_IDX & 1) != 0;
    virtqueue_start(&ring->queue);
    ring->started = true;
    return FAULT_NONE;
}

/* Eventfds have no file type. */
bool vhost_ring_is_event(int file) {
    struct stat status;

    return fstat(file, &status) == 0 && (status.st_mode & S_IFMT) == 0;
}

bool vhost_ring_drain(int file) {
    uint64_t value;
    struct iovec part = {.iov_base = &value, .iov_len = sizeof value};
    ssize_t got = preadv2(file, &part, 1, -1, RWF_NOWAIT);

    return got == (ssize_t)sizeof value || (got < 0 && (errno == EAGAIN || errno == EINTR));
}

enum fault vhost_ring_interrupt(const struct vhost_ring *ring) {
    struct pollfd event = {.fd = ring->call, .events = POLLOUT};
    const uint64_t one = 1;

    /* A counter that is full has the guest's attention already; writing to it would wait once the front-end has cleared
     * O_NONBLOCK, and eventfds know no RWF_NOWAIT for that.
     */
    if (poll(&event, 1, 0) == 0) {
        return FAULT_NONE;
    }
    return write(ring->call, &one, sizeof one) > 0 || errno == EAGAIN || errno == EINTR ? FAULT_NONE
                                                                                        : FAULT_QUEUE_EVENT;
}
