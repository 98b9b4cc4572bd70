#include "vhost_user.h"

#include <string.h>
#include <sys/socket.h>

#include "vhost_request.h"

#define MESSAGES_AT_ONCE 32 /* before the data path gets its turn */

static void count(uint64_t *counter) {
    __atomic_store_n(counter, *counter + 1, __ATOMIC_RELAXED);
}

void vhost_user_stop_rings(struct vhost_user *device) {
    for (unsigned i = 0; i < VHOST_QUEUES; i++) {
        vhost_ring_reset(&device->ring[i], i == VHOST_RX);
    }
}

/* Back to before the front-end came. */
static void disconnect(struct vhost_user *device) {
    vhost_user_stop_rings(device);
    guest_memory_clear(&device->memory);
    vhost_message_clear(&device->message);
    if (device->connection >= 0) {
        vhost_message_close(device->connection);
    }
    device->connection = -1;
    __atomic_store_n(&device->features, 0, __ATOMIC_RELAXED);
    device->protocol_features = 0;
    device->fault = FAULT_NONE;
}

void vhost_user_init(struct vhost_user *device, int listener, uint64_t max_memory, bool offload) {
    memset(device, 0, sizeof *device);
    device->listener = listener;
    device->connection = -1;
    device->offload = offload;
    device->memory.limit = max_memory;
    for (unsigned i = 0; i < VHOST_QUEUES; i++) {
        device->ring[i].kick = device->ring[i].call = -1;
    }
    vhost_user_stop_rings(device);
}

void vhost_user_close(struct vhost_user *device) {
    disconnect(device);
    vhost_ring_close_file(&device->listener);
}

void vhost_user_fail(struct vhost_user *device, enum fault fault) {
    if (device->fault == FAULT_NONE) {
        device->fault = fault;
        count(&device->faults[fault]);
        __atomic_store_n(&device->last_fault, fault, __ATOMIC_RELAXED);
    }
}

void vhost_user_settle(struct vhost_user *device) {
    if (device->fault != FAULT_NONE) {
        disconnect(device);
    }
}

void vhost_user_accept(struct vhost_user *device) {
    int connection = accept4(device->listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

    if (connection < 0) {
        return; /* whoever it was has gone again */
    }
    if (device->connection >= 0) {
        count(&device->refused); /* first: whoever sees the end of the connection finds it counted */
        vhost_message_close(connection);
        return;
    }
    device->connection = connection;
    count(&device->connections);
}

void vhost_user_converse(struct vhost_user *device, bool hung_up) {
    for (unsigned i = 0; i < MESSAGES_AT_ONCE && device->connection >= 0; i++) {
        enum fault fault = FAULT_NONE;
        enum vhost_read got =
            hung_up ? VHOST_READ_END : vhost_message_read(&device->message, device->connection, &fault);

        switch (got) {
        case VHOST_READ_MORE:
            return;
        case VHOST_READ_WHOLE:
            fault = vhost_request_handle(device, &device->message);
            vhost_message_clear(&device->message);
            break;
        case VHOST_READ_END:
            count(&device->disconnections);
            disconnect(device);
            return;
        case VHOST_READ_FAULT:
            break;
        }
        if (fault != FAULT_NONE) {
            vhost_user_fail(device, fault);
            vhost_user_settle(device);
            return;
        }
    }
}

void vhost_user_kicked(struct vhost_user *device, unsigned queue) {
    if (device->ring[queue].kick >= 0 && !vhost_ring_drain(device->ring[queue].kick)) {
        vhost_user_fail(device, FAULT_QUEUE_EVENT);
    }
}

void vhost_user_signal(struct vhost_user *device, unsigned queue) {
    struct vhost_ring *ring = &device->ring[queue];
    enum fault fault;

    if (!vhost_user_started(device, queue) || ring->call < 0 || !virtqueue_wants_signal(&ring->queue)) {
        return;
    }
    count(&device->signals);
    fault = vhost_ring_interrupt(ring);
    if (fault != FAULT_NONE) {
        vhost_user_fail(device, fault);
    }
}
