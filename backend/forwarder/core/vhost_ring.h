/* One queue of a vhost-user NIC: where its rings are, and the eventfds by which the two sides wake each other. */
#ifndef SALLYPORT_VHOST_RING_H
#define SALLYPORT_VHOST_RING_H

#include "guest_memory.h"
#include "virtqueue.h"

struct vhost_ring {
    struct virtqueue queue;
    uint64_t table, available, used; /* the front-end's addresses */
    uint32_t size;
    uint16_t base;  /* the front-end's idea of the next available index, for a ring that is not started */
    bool addressed; /* SET_VRING_ADDR came */
    bool enabled;
    bool disabled; /* by SET_VRING_ENABLE, rather than not enabled yet: what the guest sends is discarded */
    bool started;  /* the queue may be touched if it is enabled, too */
    int kick;      /* eventfds, -1: none */
    int call;
};

/* Close the eventfds (-1: none) and go back to the state in which the front-end has said nothing of the ring. `write`:
 * buffers are for us to write.
 */
void vhost_ring_reset(struct vhost_ring *ring, bool write);

/* Find the ring's parts in the memory that is mapped now. */
enum fault vhost_ring_place(struct vhost_ring *ring, const struct guest_memory *memory);

/* Start the queue with the features that were negotiated (0: none yet). */
enum fault vhost_ring_start(struct vhost_ring *ring, const struct guest_memory *memory, uint64_t features);

/* Is the file an eventfd? At least it is no file, pipe, socket or device, which could make us wait. */
bool vhost_ring_is_event(int file);

/* Empty an eventfd without waiting, whatever the front-end set its flags to. Returns false if it is none. */
bool vhost_ring_drain(int file);

/* Interrupt the guest by the call eventfd that it gave, without waiting. */
enum fault vhost_ring_interrupt(const struct vhost_ring *ring);

/* Close a file descriptor that the front-end gave, if there is one, and forget it. */
void vhost_ring_close_file(int *file);

#endif
