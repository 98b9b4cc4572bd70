#include "vhost_request.h"

#include <fcntl.h>
#include <linux/virtio_config.h>
#include <linux/virtio_net.h>
#include <string.h>

/* Requests, in the numbers of docs/interop/vhost-user ("Front-end message types"). */
enum request {
    GET_FEATURES = 1,
    SET_FEATURES = 2,
    SET_OWNER = 3,
    RESET_OWNER = 4,
    SET_MEM_TABLE = 5,
    SET_VRING_NUM = 8,
    SET_VRING_ADDR = 9,
    SET_VRING_BASE = 10,
    GET_VRING_BASE = 11,
    SET_VRING_KICK = 12,
    SET_VRING_CALL = 13,
    SET_VRING_ERR = 14,
    GET_PROTOCOL_FEATURES = 15,
    SET_PROTOCOL_FEATURES = 16,
    GET_QUEUE_NUM = 17,
    SET_VRING_ENABLE = 18,
    SEND_RARP = 19,
};

#define BIT(number) (1ULL << (number))
#define F_PROTOCOL_FEATURES 30
#define PROTOCOL_MQ 0
#define PROTOCOL_RARP 2
#define PROTOCOL_REPLY_ACK 3
#define PROTOCOL_FEATURES (BIT(PROTOCOL_MQ) | BIT(PROTOCOL_RARP) | BIT(PROTOCOL_REPLY_ACK))
#define QUEUE_PAIRS 1
#define NO_FILE BIT(8) /* of SET_VRING_KICK, _CALL, _ERR: no descriptor comes along */
#define QUEUE_MASK 0xffU

#define FEATURES                                                                                                       \
    (BIT(VIRTIO_F_VERSION_1) | BIT(VIRTIO_NET_F_MRG_RXBUF) | BIT(VIRTIO_RING_F_INDIRECT_DESC) |                        \
     BIT(VIRTIO_RING_F_EVENT_IDX) | BIT(F_PROTOCOL_FEATURES))
#define OFFLOADS                                                                                                       \
    (BIT(VIRTIO_NET_F_CSUM) | BIT(VIRTIO_NET_F_GUEST_CSUM) | BIT(VIRTIO_NET_F_HOST_TSO4) |                             \
     BIT(VIRTIO_NET_F_HOST_TSO6) | BIT(VIRTIO_NET_F_HOST_ECN) | BIT(VIRTIO_NET_F_GUEST_TSO4) |                         \
     BIT(VIRTIO_NET_F_GUEST_TSO6) | BIT(VIRTIO_NET_F_GUEST_ECN))

struct state {
    uint32_t index;
    uint32_t number;
};

struct addresses {
    uint32_t index;
    uint32_t flags;
    uint64_t table;
    uint64_t used;
    uint64_t available;
    uint64_t log;
};

struct region {
    uint64_t guest;
    uint64_t size;
    uint64_t user;
    uint64_t offset;
};

struct regions {
    uint32_t regions;
    uint32_t padding;
    struct region region[GUEST_REGIONS];
};

_Static_assert(sizeof(struct regions) == VHOST_MESSAGE_PAYLOAD, "the largest message");

static enum fault set_features(struct vhost_user *device, uint64_t features) {
    uint64_t offered = FEATURES | (device->offload ? OFFLOADS : 0);

    if (features & ~offered) {
        return FAULT_FEATURES;
    }
    if (!(features & BIT(VIRTIO_F_VERSION_1))) {
        return FAULT_LEGACY;
    }
    for (unsigned i = 0; i < VHOST_QUEUES; i++) {
        if (device->ring[i].started && features != device->features) {
            return FAULT_ORDER;
        }
        /* Without protocol features there is no SET_VRING_ENABLE ("Ring states"). */
        if (!(features & BIT(F_PROTOCOL_FEATURES))) {
            device->ring[i].enabled = true;
        }
    }
    __atomic_store_n(&device->features, features, __ATOMIC_RELAXED);
    return FAULT_NONE;
}

static enum fault set_memory(struct vhost_user *device, struct vhost_message *message) {
    struct regions table;
    uint32_t regions;

    if (message->size < offsetof(struct regions, region)) {
        return FAULT_SIZE;
    }
    memcpy(&table, message->payload.bytes, sizeof table);
    regions = table.regions;
    if (regions > GUEST_REGIONS ||
        message->size != offsetof(struct regions, region) + regions * sizeof(struct region)) {
        return regions > GUEST_REGIONS ? FAULT_MEMORY_LIMIT : FAULT_SIZE;
    }
    if (message->files != regions) {
        return FAULT_DESCRIPTORS;
    }
    guest_memory_clear(&device->memory);
    for (uint32_t i = 0; i < regions; i++) {
        const struct region *region = &table.region[i];
        enum fault fault = guest_memory_add(&device->memory, message->file[i], region->guest, region->user,
                                            region->size, region->offset);

        if (fault != FAULT_NONE) {
            return fault;
        }
    }
    /* A running guest's memory may change; its rings stay where the front-end sees them. */
    for (unsigned i = 0; i < VHOST_QUEUES; i++) {
        if (device->ring[i].started) {
            enum fault fault = vhost_ring_place(&device->ring[i], &device->memory);

            if (fault != FAULT_NONE) {
                return fault;
            }
        }
    }
    return FAULT_NONE;
}

static enum fault set_addresses(struct vhost_user *device, const struct vhost_message *message) {
    struct addresses addresses;
    struct vhost_ring *ring;

    memcpy(&addresses, message->payload.bytes, sizeof addresses);
    if (addresses.index >= VHOST_QUEUES) {
        return FAULT_QUEUE;
    }
    if (addresses.flags != 0) {
        return FAULT_FEATURES; /* logging, which was not offered */
    }
    ring = &device->ring[addresses.index];
    ring->table = addresses.table;
    ring->used = addresses.used;
    ring->available = addresses.available;
    ring->addressed = true;
    return ring->started ? vhost_ring_place(ring, &device->memory) : FAULT_NONE;
}

static enum fault set_file(struct vhost_user *device, struct vhost_message *message) {
    uint64_t word = message->payload.words[0];
    uint64_t index = word & QUEUE_MASK;
    struct vhost_ring *ring;
    int file = -1;

    if (index >= VHOST_QUEUES || word & ~(NO_FILE | QUEUE_MASK)) {
        return FAULT_QUEUE;
    }
    if (message->files != (word & NO_FILE ? 0 : 1)) {
        return FAULT_DESCRIPTORS;
    }
    ring = &device->ring[index];
    if (message->files == 1) {
        file = message->file[0];
        if (!vhost_ring_is_event(file)) {
            return FAULT_QUEUE_EVENT;
        }
    }
    switch (message->request) {
    case SET_VRING_KICK:
        /* Without one we would have to look all the time. */
        if (file < 0 || !vhost_ring_drain(file)) {
            return FAULT_QUEUE_EVENT;
        }
        vhost_ring_close_file(&ring->kick);
        ring->kick = file;
        message->file[0] = -1;
        return ring->started ? FAULT_NONE : vhost_ring_start(ring, &device->memory, device->features);
    case SET_VRING_CALL:
        vhost_ring_close_file(&ring->call);
        if (file >= 0) {
            int flags = fcntl(file, F_GETFL);

            if (flags < 0 || fcntl(file, F_SETFL, flags | O_NONBLOCK) != 0) {
                return FAULT_QUEUE_EVENT;
            }
            ring->call = file;
            message->file[0] = -1;
            /* Once too often rather than never: who served this ring before us may have ended between the used ring and
             * the interrupt.
             */
            return vhost_ring_interrupt(ring);
        }
        return FAULT_NONE;
    default: /* SET_VRING_ERR: we have nothing to say there; the connection ends instead */
        return FAULT_NONE;
    }
}

static enum fault set_ring(struct vhost_user *device, const struct vhost_message *message) {
    struct state state;
    struct vhost_ring *ring;

    memcpy(&state, message->payload.bytes, sizeof state);
    if (state.index >= VHOST_QUEUES) {
        return FAULT_QUEUE;
    }
    ring = &device->ring[state.index];
    switch (message->request) {
    case SET_VRING_ENABLE:
        /* QEMU restores the state of its rings before it acknowledges features. */
        if (device->features != 0 && !(device->features & BIT(F_PROTOCOL_FEATURES))) {
            return FAULT_ORDER;
        }
        ring->enabled = state.number != 0;
        ring->disabled = !ring->enabled;
        return FAULT_NONE;
    case SET_VRING_NUM:
        if (ring->started) {
            return FAULT_ORDER;
        }
        if (state.number == 0 || state.number > QUEUE_MAX || (state.number & (state.number - 1)) != 0) {
            return FAULT_QUEUE_SIZE;
        }
        ring->size = state.number;
        return FAULT_NONE;
    default: /* SET_VRING_BASE: the used ring tells the same, see virtqueue_start() */
        if (ring->started) {
            return FAULT_ORDER;
        }
        if (state.number > UINT16_MAX) {
            return FAULT_AVAILABLE;
        }
        ring->base = (uint16_t)state.number;
        return FAULT_NONE;
    }
}

static enum fault get_base(struct vhost_user *device, const struct vhost_message *message) {
    struct vhost_ring *ring;
    struct state state;
    bool enabled, disabled;

    memcpy(&state, message->payload.bytes, sizeof state);
    if (state.index >= VHOST_QUEUES) {
        return FAULT_QUEUE;
    }
    ring = &device->ring[state.index];
    state.number = ring->started ? ring->queue.published : ring->base;
    enabled = ring->enabled;
    disabled = ring->disabled;
    vhost_ring_reset(ring, state.index == VHOST_RX);
    ring->base = (uint16_t)state.number;
    ring->enabled = enabled; /* it is another state than being started */
    ring->disabled = disabled;
    return vhost_message_reply(device->connection, GET_VRING_BASE, &state, sizeof state);
}

static enum fault reply_word(const struct vhost_user *device, uint32_t request, uint64_t word) {
    return vhost_message_reply(device->connection, request, &word, sizeof word);
}

/* Size of the payload and number of descriptors of each request; ANY: checked where they are used. */
#define ANY UINT32_MAX
static const struct rule {
    enum request request;
    uint32_t size;
    uint32_t files;
    bool replies; /* with an answer of its own */
} rules[] = {
    {GET_FEATURES, 0, 0, true},
    {SET_FEATURES, 8, 0, false},
    {SET_OWNER, 0, 0, false},
    {RESET_OWNER, 0, 0, false},
    {SET_MEM_TABLE, ANY, ANY, false},
    {SET_VRING_NUM, sizeof(struct state), 0, false},
    {SET_VRING_ADDR, sizeof(struct addresses), 0, false},
    {SET_VRING_BASE, sizeof(struct state), 0, false},
    {GET_VRING_BASE, sizeof(struct state), 0, true},
    {SET_VRING_KICK, 8, ANY, false},
    {SET_VRING_CALL, 8, ANY, false},
    {SET_VRING_ERR, 8, ANY, false},
    {GET_PROTOCOL_FEATURES, 0, 0, true},
    {SET_PROTOCOL_FEATURES, 8, 0, false},
    {GET_QUEUE_NUM, 0, 0, true},
    {SET_VRING_ENABLE, sizeof(struct state), 0, false},
    {SEND_RARP, 8, 0, false},
};

static const struct rule *rule_of(uint32_t request) {
    for (size_t i = 0; i < sizeof rules / sizeof rules[0]; i++) {
        if ((uint32_t)rules[i].request == request) {
            return &rules[i];
        }
    }
    return NULL;
}

static enum fault obey(struct vhost_user *device, struct vhost_message *message) {
    uint64_t word = message->payload.words[0];

    switch ((enum request)message->request) {
    case GET_FEATURES:
        return reply_word(device, GET_FEATURES, FEATURES | (device->offload ? OFFLOADS : 0));
    case SET_FEATURES:
        return set_features(device, word);
    case SET_OWNER:
        return FAULT_NONE;
    case RESET_OWNER:
        vhost_user_stop_rings(device);
        return FAULT_NONE;
    case SET_MEM_TABLE:
        return set_memory(device, message);
    case SET_VRING_NUM:
    case SET_VRING_BASE:
    case SET_VRING_ENABLE:
        return set_ring(device, message);
    case SET_VRING_ADDR:
        return set_addresses(device, message);
    case GET_VRING_BASE:
        return get_base(device, message);
    case SET_VRING_KICK:
    case SET_VRING_CALL:
    case SET_VRING_ERR:
        return set_file(device, message);
    case GET_PROTOCOL_FEATURES:
        return reply_word(device, GET_PROTOCOL_FEATURES, PROTOCOL_FEATURES);
    case SET_PROTOCOL_FEATURES:
        if (word & ~PROTOCOL_FEATURES) {
            return FAULT_FEATURES;
        }
        device->protocol_features = word;
        return FAULT_NONE;
    case GET_QUEUE_NUM:
        return reply_word(device, GET_QUEUE_NUM, QUEUE_PAIRS);
    case SEND_RARP:
        /* After a migration; the guest's own first frame says as much. */
        return FAULT_NONE;
    }
    return FAULT_REQUEST;
}

enum fault vhost_request_handle(struct vhost_user *device, struct vhost_message *message) {
    const struct rule *rule = rule_of(message->request);
    enum fault fault;

    if (rule == NULL) {
        return FAULT_REQUEST;
    }
    if (rule->size != ANY && message->size != rule->size) {
        return FAULT_SIZE;
    }
    if (rule->files != ANY && message->files != rule->files) {
        return FAULT_DESCRIPTORS;
    }
    fault = obey(device, message);
    if (fault == FAULT_NONE && !rule->replies && message->flags & VHOST_NEED_REPLY &&
        device->protocol_features & BIT(PROTOCOL_REPLY_ACK)) {
        fault = reply_word(device, message->request, 0);
    }
    return fault;
}
