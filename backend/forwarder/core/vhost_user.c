#include "vhost_user.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/vhost_types.h>
#include <linux/virtio_config.h>
#include <linux/virtio_net.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

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
#define MESSAGES_AT_ONCE 32 /* before the data path gets its turn */

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

static void count(uint64_t *counter) {
    __atomic_store_n(counter, *counter + 1, __ATOMIC_RELAXED);
}

static void close_file(int *file) {
    if (*file >= 0) {
        close(*file);
    }
    *file = -1;
}

/* To the first state of all. Needs initialised descriptors. */
static void ring_reset(struct vhost_ring *ring, bool write) {
    close_file(&ring->kick);
    close_file(&ring->call);
    *ring = (struct vhost_ring){.kick = -1, .call = -1, .queue = {.write = write}};
}

static void stop_rings(struct vhost_user *device) {
    for (unsigned i = 0; i < VHOST_QUEUES; i++) {
        ring_reset(&device->ring[i], i == VHOST_RX);
    }
}

/* Back to before the front-end came. */
static void disconnect(struct vhost_user *device) {
    stop_rings(device);
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
    stop_rings(device);
}

void vhost_user_close(struct vhost_user *device) {
    disconnect(device);
    close_file(&device->listener);
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

/* Find the rings in the memory that is mapped now. */
static enum fault place(struct vhost_user *device, struct vhost_ring *ring) {
    const struct guest_memory *memory = &device->memory;
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

static enum fault start(struct vhost_user *device, struct vhost_ring *ring) {
    enum fault fault;

    if (device->features == 0 || ring->size == 0 || !ring->addressed) {
        return FAULT_ORDER;
    }
    fault = place(device, ring);
    if (fault != FAULT_NONE) {
        return fault;
    }
    ring->queue.size = ring->size;
    ring->queue.indirect = vhost_user_has(device, VIRTIO_RING_F_INDIRECT_DESC);
    ring->queue.event_index = vhost_user_has(device, VIRTIO_RING_F_EVENT_IDX);
    virtqueue_start(&ring->queue);
    ring->started = true;
    return FAULT_NONE;
}

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
            enum fault fault = place(device, &device->ring[i]);

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
    return ring->started ? place(device, ring) : FAULT_NONE;
}

/* Is it an eventfd? At least no file, pipe, socket or device, which could make us wait: eventfds have no file type. */
static bool is_event(int file) {
    struct stat status;

    return fstat(file, &status) == 0 && (status.st_mode & S_IFMT) == 0;
}

/* Empty an eventfd without waiting, whatever the front-end set its flags to. */
static bool drain(int file) {
    uint64_t value;
    struct iovec part = {.iov_base = &value, .iov_len = sizeof value};
    ssize_t got = preadv2(file, &part, 1, -1, RWF_NOWAIT);

    return got == (ssize_t)sizeof value || (got < 0 && (errno == EAGAIN || errno == EINTR));
}

static enum fault knock(const struct vhost_ring *ring) {
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
        if (!is_event(file)) {
            return FAULT_QUEUE_EVENT;
        }
    }
    switch (message->request) {
    case SET_VRING_KICK:
        /* Without one we would have to look all the time. */
        if (file < 0 || !drain(file)) {
            return FAULT_QUEUE_EVENT;
        }
        close_file(&ring->kick);
        ring->kick = file;
        message->file[0] = -1;
        return ring->started ? FAULT_NONE : start(device, ring);
    case SET_VRING_CALL:
        close_file(&ring->call);
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
            return knock(ring);
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
    ring_reset(ring, state.index == VHOST_RX);
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
        stop_rings(device);
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

static enum fault handle(struct vhost_user *device, struct vhost_message *message) {
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

void vhost_user_converse(struct vhost_user *device, bool hung_up) {
    for (unsigned i = 0; i < MESSAGES_AT_ONCE && device->connection >= 0; i++) {
        enum fault fault = FAULT_NONE;
        enum vhost_read got =
            hung_up ? VHOST_READ_END : vhost_message_read(&device->message, device->connection, &fault);

        switch (got) {
        case VHOST_READ_MORE:
            return;
        case VHOST_READ_WHOLE:
            fault = handle(device, &device->message);
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
    if (device->ring[queue].kick >= 0 && !drain(device->ring[queue].kick)) {
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
    fault = knock(ring);
    if (fault != FAULT_NONE) {
        vhost_user_fail(device, fault);
    }
}

#define VHOST_FAULT_NAME(number, name, sentence) [number] = name,
#define VHOST_FAULT_SENTENCE(number, name, sentence) [number] = sentence,

const char *vhost_fault_name(enum fault fault) {
    static const char *const names[FAULTS] = {VHOST_FAULTS(VHOST_FAULT_NAME)};

    return names[fault];
}

const char *vhost_fault_sentence(enum fault fault) {
    static const char *const sentences[FAULTS] = {VHOST_FAULTS(VHOST_FAULT_SENTENCE)};

    return sentences[fault];
}
