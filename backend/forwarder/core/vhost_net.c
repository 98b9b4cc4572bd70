#include "vhost_net.h"

#include <linux/virtio_config.h>
#include <stdlib.h>

#include "cursor.h"
#include "offload.h"
#include "vhost_put.h"

struct vhost_net {
    struct endpoint endpoint;
    struct vhost_user device;
    uint32_t taken; /* chains of the transmit queue that are out */
    uint16_t taken_head[FRAME_BATCH];
    uint32_t buffers;        /* of the receive queue that a frame takes lately; at least 1 */
    uint32_t most_available; /* buffers that the guest had in its receive queue at once; both of this guest only */
    uint64_t guest;          /* device.connections when they were learned */
    struct frame segment;    /* one piece of a GSO frame that the guest does not take whole */
};

static struct vhost_net *net_of(struct endpoint *endpoint) {
    return (struct vhost_net *)endpoint; /* its first member */
}

/* From the guest. */

/* May the guest ask for this at all? */
static bool negotiated(const struct vhost_user *device, const struct virtio_net_hdr *asked) {
    unsigned feature;

    if (asked->flags & VIRTIO_NET_HDR_F_NEEDS_CSUM && !vhost_user_has(device, VIRTIO_NET_F_CSUM)) {
        return false;
    }
    switch (asked->gso_type & ~VIRTIO_NET_HDR_GSO_ECN) {
    case VIRTIO_NET_HDR_GSO_NONE:
        return asked->gso_type == VIRTIO_NET_HDR_GSO_NONE;
    case VIRTIO_NET_HDR_GSO_TCPV4:
        feature = VIRTIO_NET_F_HOST_TSO4;
        break;
    case VIRTIO_NET_HDR_GSO_TCPV6:
        feature = VIRTIO_NET_F_HOST_TSO6;
        break;
    default:
        return false;
    }
    return vhost_user_has(device, feature);
}

/* Make a chain a frame: the header, the head copied, ranges for the rest. */
static enum verdict take_chain(const struct vhost_user *device, const struct chain *chain, struct frame *frame) {
    struct cursor from = {.part = chain->part, .parts = chain->parts};
    struct virtio_net_hdr_mrg_rxbuf header = {0};
    struct iovec header_part = {.iov_base = &header, .iov_len = VHOST_HEADER};
    struct iovec head_part = {.iov_base = frame->head, .iov_len = FRAME_HEAD};
    struct cursor to_header = {.part = &header_part, .parts = 1}, to_head = {.part = &head_part, .parts = 1};

    frame->len = 0;
    if (chain->too_long || chain->len > VHOST_HEADER + FRAME_MAX) {
        return VERDICT_OVERSIZED;
    }
    if (chain->len < VHOST_HEADER + POLICY_ETHER) {
        return VERDICT_RUNT;
    }
    frame->len = (uint32_t)chain->len - VHOST_HEADER;
    cursor_copy(&to_header, &from, VHOST_HEADER);
    frame->part[0] = (struct iovec){.iov_base = frame->head, .iov_len = cursor_copy(&to_head, &from, FRAME_HEAD)};
    /* What was copied is what counts, whatever the guest writes there now. */
    __asm__ volatile("" : : "r"(&header), "r"(frame->head) : "memory");
    frame->parts = 1;
    for (; from.parts > 0; from.parts--, from.part++, from.offset = 0) {
        /* At least one of the chain's parts has gone into the head, or begins there. */
        if (frame->parts == FRAME_PARTS) {
            return VERDICT_OVERSIZED;
        }
        frame->part[frame->parts++] = (struct iovec){.iov_base = (uint8_t *)from.part->iov_base + from.offset,
                                                     .iov_len = from.part->iov_len - from.offset};
    }
    frame->tag_tpid = 0;
    return negotiated(device, &header.hdr) && offload_from_guest(frame, &header.hdr) ? VERDICT_PASSED : VERDICT_OFFLOAD;
}

static unsigned net_receive(struct endpoint *endpoint, struct frame *frames, unsigned max) {
    struct vhost_net *net = net_of(endpoint);
    struct vhost_user *device = &net->device;
    struct virtqueue *queue = &device->ring[VHOST_TX].queue;
    bool discard = vhost_user_discards(device, VHOST_TX);
    struct chain chain;
    unsigned n = 0;

    if (!discard && !vhost_user_running(device, VHOST_TX)) {
        return 0;
    }
    if (!queue->quiet) {
        virtqueue_no_kick(queue);
    }
    while (n < max && net->taken < FRAME_BATCH && virtqueue_pop(queue, &device->memory, &chain)) {
        enum verdict verdict = take_chain(device, &chain, &frames[n]);

        net->taken_head[net->taken++] = chain.head;
        if (verdict == VERDICT_PASSED && discard) {
            verdict = VERDICT_DOWN;
        }
        if (verdict == VERDICT_PASSED) {
            n++;
        } else {
            counter_add(endpoint->counters, verdict, 1, frames[n].len);
        }
    }
    if (queue->fault != FAULT_NONE) {
        /* What was taken before is good, and its memory stays until release(). */
        vhost_user_fail(device, queue->fault);
    }
    return n;
}

static void net_release(struct endpoint *endpoint) {
    struct vhost_net *net = net_of(endpoint);
    struct vhost_user *device = &net->device;
    struct virtqueue *queue = &device->ring[VHOST_TX].queue;

    if (vhost_user_started(device, VHOST_TX)) {
        for (uint32_t i = 0; i < net->taken; i++) {
            virtqueue_push(queue, net->taken_head[i], 0);
        }
        virtqueue_publish(queue);
    }
    net->taken = 0;
    vhost_user_settle(device);
}

/* To the guest. */

/* How many buffers must be there for one frame. */
static uint32_t buffers_of_frame(const struct vhost_net *net) {
    uint32_t half = net->device.ring[VHOST_RX].size / 2;

    /* A guest with few buffers, or one that fills little of its queue, must not wait for what it never gives. */
    half = net->most_available < half ? net->most_available : half;
    return half == 0 ? 1 : net->buffers < half ? net->buffers : half;
}

static unsigned net_room(struct endpoint *endpoint) {
    struct vhost_net *net = net_of(endpoint);
    struct virtqueue *queue = &net->device.ring[VHOST_RX].queue;
    uint32_t available;

    if (!vhost_user_running(&net->device, VHOST_RX)) {
        return FRAME_BATCH;
    }
    available = virtqueue_available(queue);
    if (queue->fault != FAULT_NONE) {
        vhost_user_fail(&net->device, queue->fault);
        return FRAME_BATCH;
    }
    if (net->guest != net->device.connections) {
        net->guest = net->device.connections;
        net->buffers = 1;
        net->most_available = 0;
    }
    if (available > net->most_available) {
        net->most_available = available;
    }
    return available / buffers_of_frame(net);
}

static void net_send(struct endpoint *endpoint, struct frame *const *frames, unsigned n, struct counter *counters) {
    struct vhost_net *net = net_of(endpoint);
    struct vhost_user *device = &net->device;
    struct virtqueue *queue = &device->ring[VHOST_RX].queue;
    uint32_t most_buffers = 1;
    uint64_t passed = 0, bytes = 0;

    for (unsigned i = 0; i < n; i++) {
        enum verdict verdict = VERDICT_DOWN;

        if (vhost_user_running(device, VHOST_RX)) {
            uint32_t len = frames[i]->len;

            verdict = vhost_put(device, frames[i], &net->segment, &most_buffers);
            if (queue->fault != FAULT_NONE) {
                vhost_user_fail(device, queue->fault);
                verdict = VERDICT_DOWN;
            }
            if (verdict == VERDICT_PASSED) {
                passed++;
                bytes += len;
                continue;
            }
            if (verdict == VERDICT_NO_BUFFER) {
                most_buffers = net->buffers < QUEUE_MAX ? 2 * net->buffers : QUEUE_MAX; /* more than was thought */
            }
        }
        counter_add(counters, verdict, 1, frames[i]->len);
    }
    counter_add(counters, VERDICT_PASSED, passed, bytes);
    if (vhost_user_started(device, VHOST_RX)) {
        virtqueue_publish(queue);
        if (most_buffers >= net->buffers) {
            net->buffers = most_buffers;
        } else {
            net->buffers -= (net->buffers - most_buffers + 7) / 8;
        }
    }
}

static void net_flush(struct endpoint *endpoint) {
    struct vhost_net *net = net_of(endpoint);

    vhost_user_signal(&net->device, VHOST_TX);
    vhost_user_signal(&net->device, VHOST_RX);
}

/* Control. */

/* What a descriptor given by arm() is for; the order in which wake() deals with them is another. */
static unsigned add(struct pollfd *fds, unsigned n, int fd) {
    if (fd >= 0) {
        fds[n++] = (struct pollfd){.fd = fd, .events = POLLIN};
    }
    return n;
}

static int net_arm(struct endpoint *endpoint, struct pollfd *fds, bool want_frames, bool want_room) {
    struct vhost_net *net = net_of(endpoint);
    struct vhost_user *device = &net->device;
    struct vhost_ring *rx = &device->ring[VHOST_RX], *tx = &device->ring[VHOST_TX];
    unsigned n = 0;

    net_flush(endpoint); /* frames that were refused end no round */
    if (net->taken == 0) {
        vhost_user_settle(device);
    }
    if (want_frames && (vhost_user_running(device, VHOST_TX) || vhost_user_discards(device, VHOST_TX))) {
        if (virtqueue_want_kick(&tx->queue, 1)) {
            return -1;
        }
        n = add(fds, n, tx->kick);
    }
    if (want_room) {
        if (!vhost_user_running(device, VHOST_RX) || virtqueue_want_kick(&rx->queue, buffers_of_frame(net))) {
            return -1;
        }
        n = add(fds, n, rx->kick);
    }
    n = add(fds, n, device->connection);
    return (int)add(fds, n, device->listener);
}

static bool is_ready(const struct pollfd *fds, unsigned n, int fd, short *events) {
    for (unsigned i = 0; i < n && fd >= 0; i++) {
        if (fds[i].fd == fd && fds[i].revents != 0) {
            *events = fds[i].revents;
            return true;
        }
    }
    return false;
}

static void net_wake(struct endpoint *endpoint, const struct pollfd *fds, unsigned n) {
    struct vhost_net *net = net_of(endpoint);
    struct vhost_user *device = &net->device;
    short events = 0;

    for (unsigned i = 0; i < VHOST_QUEUES; i++) {
        if (is_ready(fds, n, device->ring[i].kick, &events)) {
            if (events & (POLLERR | POLLNVAL)) {
                vhost_user_fail(device, FAULT_QUEUE_EVENT);
            } else {
                vhost_user_kicked(device, i);
            }
        }
    }
    if (device->ring[VHOST_RX].started && !device->ring[VHOST_RX].queue.quiet) {
        virtqueue_no_kick(&device->ring[VHOST_RX].queue);
    }
    vhost_user_settle(device);
    /* The old connection's end before the new one's beginning: a front-end that restarts makes both at once. */
    if (is_ready(fds, n, device->connection, &events)) {
        vhost_user_converse(device, (events & (POLLHUP | POLLERR)) != 0);
    }
    if (is_ready(fds, n, device->listener, &events)) {
        vhost_user_accept(device);
    }
}

static bool net_up(struct endpoint *endpoint) {
    const struct vhost_net *net = net_of(endpoint);

    return vhost_user_running(&net->device, VHOST_RX) && vhost_user_running(&net->device, VHOST_TX);
}

static void net_close(struct endpoint *endpoint) {
    struct vhost_net *net = net_of(endpoint);

    vhost_user_close(&net->device);
    free(net);
}

static const struct endpoint_ops net_ops = {
    .receive = net_receive,
    .release = net_release,
    .room = net_room,
    .send = net_send,
    .flush = net_flush,
    .arm = net_arm,
    .wake = net_wake,
    .up = net_up,
    .close = net_close,
};

struct endpoint *vhost_net_open(int listener, uint64_t max_memory, bool offload, enum direction from) {
    struct vhost_net *net = calloc(1, sizeof *net);

    if (net == NULL) {
        return NULL;
    }
    net->endpoint = (struct endpoint){.ops = &net_ops, .from = from};
    net->buffers = 1;
    vhost_user_init(&net->device, listener, max_memory, offload);
    return &net->endpoint;
}

struct vhost_user *vhost_net_device(struct endpoint *endpoint) {
    return endpoint->ops == &net_ops ? &net_of(endpoint)->device : NULL;
}
