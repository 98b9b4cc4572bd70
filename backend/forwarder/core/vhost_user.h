/* The back end of a vhost-user NIC: what a front-end (QEMU) says, and the state that comes of it
 * (QEMU: docs/interop/vhost-user; virtio 1.2, 5.1).
 *
 * Theory of operation. The front-end connects to our listening socket; there is one connection at a time, and all state
 * of the device lives and dies with it. It negotiates features, hands over the guest's memory as files
 * (guest_memory.h), tells where the rings of the two queues are, and by which eventfds guest and device wake each
 * other. A ring runs from SET_VRING_KICK to GET_VRING_BASE; frames flow while it is enabled, too.
 *
 * Front-end and guest are both taken for hostile. The first bad value stops the port: the connection is closed, the
 * rings forgotten, the memory unmapped, the reason counted. The front-end may connect again. Nothing here waits:
 * sockets are used with MSG_DONTWAIT, and eventfds are read with RWF_NOWAIT, because their O_NONBLOCK belongs to the
 * front-end as much as to us.
 *
 * What is not offered: packed rings, a control queue, several pairs of queues, an IOMMU, dirty-page logging (hence no
 * live migration), back-end requests, changing memory slots one by one.
 */
#ifndef SALLYPORT_VHOST_USER_H
#define SALLYPORT_VHOST_USER_H

#include "guest_memory.h"
#include "vhost_message.h"
#include "vhost_ring.h"

enum { VHOST_RX, VHOST_TX, VHOST_QUEUES }; /* as the guest sees them (virtio 1.2, 5.1.2) */

struct vhost_user {
    int listener;
    int connection;    /* -1: none */
    bool offload;      /* offer checksum and segmentation offload */
    uint64_t features; /* negotiated, 0: not yet */
    uint64_t protocol_features;
    struct guest_memory memory;
    struct vhost_ring ring[VHOST_QUEUES];
    struct vhost_message message;
    enum fault fault; /* to be dealt with by vhost_user_settle() */
    /* For readers in other threads: written with relaxed atomic stores. */
    uint64_t connections;
    uint64_t disconnections; /* by the front-end, without a fault */
    uint64_t refused;        /* second connections */
    uint64_t signals;        /* interrupts asked for */
    uint64_t faults[FAULTS];
    enum fault last_fault;
};

/* Begin with a listening unix socket, which is the device's from now on. */
void vhost_user_init(struct vhost_user *device, int listener, uint64_t max_memory, bool offload);

/* Stop and close everything. */
void vhost_user_close(struct vhost_user *device);

/* Forget both rings, as after RESET_OWNER. */
void vhost_user_stop_rings(struct vhost_user *device);

/* The port is bad: nothing is taken from or put to it any more. The first reason counts. */
void vhost_user_fail(struct vhost_user *device, enum fault fault);

/* Act on a fault: drop the connection, unmap. Not while somebody holds ranges of the guest's memory. */
void vhost_user_settle(struct vhost_user *device);

/* Can the queue be touched? */
static inline bool vhost_user_started(const struct vhost_user *device, unsigned queue) {
    return device->ring[queue].started && device->fault == FAULT_NONE;
}

static inline bool vhost_user_running(const struct vhost_user *device, unsigned queue) {
    return vhost_user_started(device, queue) && device->ring[queue].enabled;
}

/* Is the queue to be emptied without anything coming of it ("Ring states")? */
static inline bool vhost_user_discards(const struct vhost_user *device, unsigned queue) {
    return vhost_user_started(device, queue) && device->ring[queue].disabled;
}

static inline bool vhost_user_has(const struct vhost_user *device, unsigned feature) {
    return (device->features >> feature & 1) != 0;
}

/* Somebody connects: take the connection, or refuse a second one. */
void vhost_user_accept(struct vhost_user *device);

/* The connection can be read or is broken (`hung_up`). */
void vhost_user_converse(struct vhost_user *device, bool hung_up);

/* The guest kicked the queue: its kick eventfd is readable. */
void vhost_user_kicked(struct vhost_user *device, unsigned queue);

/* Interrupt the guest if it wants to hear of what was published. */
void vhost_user_signal(struct vhost_user *device, unsigned queue);

#endif
