/* An endpoint in this process's own memory.
 *
 * Theory of operation. Two rings of slots (memory_ring.h), one each way, each with one producer and one consumer.
 *
 * Who sleeps says so in a flag first and looks at the ring once more; who publishes looks at the flag afterwards. A
 * full fence on either side between its store and its load is what makes a lost wake-up impossible.
 */
#include "memory.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "../../../../backend/forwarder/core/clock.h"
#include "../../../../backend/forwarder/core/frame_tag.h"
#include "memory_ring.h"

struct memory {
    struct endpoint endpoint; /* first: the two are cast into each other */
    unsigned slot_bytes;
    bool up;
    bool sent;              /* since the last flush() */
    int data_path_fd;       /* eventfd: wakes the data path */
    int other_fd;           /* eventfd: wakes the other side */
    struct memory_ring in;  /* from the other side */
    struct memory_ring out; /* to the other side */
};

static struct memory *memory_of(struct endpoint *endpoint) {
    return (struct memory *)endpoint;
}

static void signal_sleeper(bool *sleeps, int fd) {
    const uint64_t one = 1;

    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    if (__atomic_load_n(sleeps, __ATOMIC_RELAXED)) {
        __atomic_store_n(sleeps, false, __ATOMIC_RELAXED);
        /* It fails only if the counter is at its limit, and then the sleeper is awake. */
        (void)!write(fd, &one, sizeof(one));
    }
}

static void fall_asleep(bool *sleeps) {
    __atomic_store_n(sleeps, true, __ATOMIC_RELAXED);
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
}

static void drain(int fd) {
    uint64_t count;

    (void)!read(fd, &count, sizeof(count));
}

/* The data path's side. */

static unsigned memory_receive(struct endpoint *endpoint, struct frame *frames, unsigned max) {
    struct memory_ring *ring = &memory_of(endpoint)->in;
    unsigned ready = memory_ring_ready(ring, max);
    unsigned n = ready < max ? ready : max;

    for (unsigned i = 0; i < n; i++) {
        struct memory_slot *slot = memory_ring_slot(ring, ring->taken + i);
        struct frame *frame = &frames[i];

        frame->part[0].iov_base = slot->bytes;
        frame->part[0].iov_len = slot->len;
        frame->parts = 1;
        frame->len = slot->len;
        frame->tag_tpid = slot->tag_tpid;
        frame->tag_tci = slot->tag_tci;
        frame->offload = slot->offload;
    }
    ring->taken += n;
    return n;
}

static void memory_release(struct endpoint *endpoint) {
    struct memory *memory = memory_of(endpoint);

    if (memory->in.taken != memory->in.read) {
        memory_ring_return(&memory->in);
    }
}

static unsigned memory_room(struct endpoint *endpoint) {
    struct memory *memory = memory_of(endpoint);

    return memory->endpoint.ops->up(endpoint) ? memory_ring_room(&memory->out, FRAME_BATCH) : FRAME_BATCH;
}

static uint8_t *copy(uint8_t *to, const struct frame *frame, unsigned part, size_t skip) {
    for (; part < frame->parts; part++, skip = 0) {
        size_t len = frame->part[part].iov_len - skip;

        memcpy(to, (const uint8_t *)frame->part[part].iov_base + skip, len);
        to += len;
    }
    return to;
}

/* Put the tag back behind the two addresses (IEEE 802.1Q, 9.3), which are in part[0]. */
static void copy_tagged(struct memory_slot *slot, const struct frame *frame) {
    memcpy(slot->bytes, frame->part[0].iov_base, FRAME_ADDRESSES);
    frame_tag_bytes(frame, slot->bytes + FRAME_ADDRESSES);
    copy(slot->bytes + FRAME_ADDRESSES + POLICY_TAG, frame, 0, FRAME_ADDRESSES);
    slot->len += POLICY_TAG;
    if (slot->offload.flags != 0) {
        slot->offload.csum_start = (uint16_t)(slot->offload.csum_start + POLICY_TAG);
    }
    if (slot->offload.gso_size != 0) {
        slot->offload.hdr_len = (uint16_t)(slot->offload.hdr_len + POLICY_TAG);
    }
}

static enum verdict memory_send_one(struct memory *memory, const struct frame *frame) {
    bool tagged = frame->tag_tpid != 0;
    struct memory_slot *slot;

    if (tagged && frame->len < POLICY_ETHER) {
        return VERDICT_RUNT;
    }
    if (frame->len + (tagged ? POLICY_TAG : 0) > memory->slot_bytes) {
        return VERDICT_OVERSIZED;
    }
    if (memory_ring_room(&memory->out, 1) == 0) {
        return VERDICT_NO_BUFFER;
    }
    slot = memory_ring_slot(&memory->out, memory->out.put);
    slot->len = frame->len;
    slot->tag_tpid = 0;
    slot->tag_tci = 0;
    slot->offload = frame->offload;
    if (tagged) {
        copy_tagged(slot, frame);
    } else {
        copy(slot->bytes, frame, 0, 0);
    }
    memory->out.put++;
    return VERDICT_PASSED;
}

static void memory_send(struct endpoint *endpoint, struct frame *const *frames, unsigned n, struct counter *counters) {
    struct memory *memory = memory_of(endpoint);
    bool up = endpoint->ops->up(endpoint);
    uint64_t passed = 0;
    uint64_t bytes = 0;

    for (unsigned i = 0; i < n; i++) {
        enum verdict verdict = up ? memory_send_one(memory, frames[i]) : VERDICT_DOWN;

        if (verdict == VERDICT_PASSED) {
            passed++;
            bytes += frames[i]->len;
        } else {
            counter_add(counters, verdict, 1, frames[i]->len);
        }
    }
    if (passed != 0) {
        counter_add(counters, VERDICT_PASSED, passed, bytes);
        memory_ring_publish(&memory->out);
        memory->sent = true;
    }
}

static void memory_flush(struct endpoint *endpoint) {
    struct memory *memory = memory_of(endpoint);

    if (memory->sent) {
        memory->sent = false;
        signal_sleeper(&memory->out.consumer_sleeps, memory->other_fd);
    }
}

static int memory_arm(struct endpoint *endpoint, struct pollfd *fds, bool want_frames, bool want_room) {
    struct memory *memory = memory_of(endpoint);

    if (want_frames) {
        fall_asleep(&memory->in.consumer_sleeps);
    }
    if (want_room) {
        fall_asleep(&memory->out.producer_sleeps);
    }
    if ((want_frames && memory_ring_ready(&memory->in, 1) != 0) || (want_room && endpoint->ops->room(endpoint) != 0)) {
        __atomic_store_n(&memory->in.consumer_sleeps, false, __ATOMIC_RELAXED);
        __atomic_store_n(&memory->out.producer_sleeps, false, __ATOMIC_RELAXED);
        return -1;
    }
    fds[0] = (struct pollfd){.fd = memory->data_path_fd, .events = POLLIN};
    return 1;
}

static void memory_wake(struct endpoint *endpoint, const struct pollfd *fds, unsigned n) {
    struct memory *memory = memory_of(endpoint);

    __atomic_store_n(&memory->in.consumer_sleeps, false, __ATOMIC_RELAXED);
    __atomic_store_n(&memory->out.producer_sleeps, false, __ATOMIC_RELAXED);
    if (n != 0 && (fds[0].revents & POLLIN) != 0) {
        drain(memory->data_path_fd);
    }
}

static bool memory_up(struct endpoint *endpoint) {
    return __atomic_load_n(&memory_of(endpoint)->up, __ATOMIC_RELAXED);
}

static void memory_close(struct endpoint *endpoint) {
    struct memory *memory = memory_of(endpoint);

    if (memory->data_path_fd >= 0) {
        close(memory->data_path_fd);
    }
    if (memory->other_fd >= 0) {
        close(memory->other_fd);
    }
    free(memory->in.storage);
    free(memory->out.storage);
    free(memory);
}

static const struct endpoint_ops memory_ops = {
    .receive = memory_receive,
    .release = memory_release,
    .room = memory_room,
    .send = memory_send,
    .flush = memory_flush,
    .arm = memory_arm,
    .wake = memory_wake,
    .up = memory_up,
    .close = memory_close,
};

struct endpoint *memory_open(unsigned slots, unsigned slot_bytes, enum direction from) {
    struct memory *memory;
    int failure;

    if (slots == 0 || slots > MEMORY_MAX_SLOTS || slot_bytes == 0 || slot_bytes > FRAME_MAX) {
        errno = EINVAL;
        return NULL;
    }
    memory = aligned_alloc(MEMORY_LINE, (sizeof(*memory) + MEMORY_LINE - 1) / MEMORY_LINE * MEMORY_LINE);
    if (memory == NULL) {
        return NULL;
    }
    memset(memory, 0, sizeof(*memory));
    memory->endpoint.ops = &memory_ops;
    memory->endpoint.from = from;
    memory->slot_bytes = slot_bytes;
    memory->up = true;
    memory->data_path_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    memory->other_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (memory->data_path_fd < 0 || memory->other_fd < 0 || memory_ring_init(&memory->in, slots, slot_bytes) != 0 ||
        memory_ring_init(&memory->out, slots, slot_bytes) != 0) {
        failure = errno;
        memory_close(&memory->endpoint);
        errno = failure;
        return NULL;
    }
    return &memory->endpoint;
}

bool memory_is(const struct endpoint *endpoint) {
    return endpoint->ops == &memory_ops;
}

/* The other side. */

unsigned memory_slot_bytes(const struct endpoint *endpoint) {
    return ((const struct memory *)(const void *)endpoint)->slot_bytes;
}

struct memory_slot *memory_next(struct endpoint *endpoint) {
    struct memory_ring *ring = &memory_of(endpoint)->in;

    return memory_ring_room(ring, 1) == 0 ? NULL : memory_ring_slot(ring, ring->put);
}

void memory_put(struct endpoint *endpoint) {
    memory_of(endpoint)->in.put++;
}

void memory_publish(struct endpoint *endpoint) {
    struct memory *memory = memory_of(endpoint);

    memory_ring_publish(&memory->in);
    signal_sleeper(&memory->in.consumer_sleeps, memory->data_path_fd);
}

const struct memory_slot *memory_peek(struct endpoint *endpoint) {
    struct memory_ring *ring = &memory_of(endpoint)->out;

    return memory_ring_ready(ring, 1) == 0 ? NULL : memory_ring_slot(ring, ring->taken);
}

void memory_take(struct endpoint *endpoint) {
    memory_of(endpoint)->out.taken++;
}

void memory_return(struct endpoint *endpoint) {
    struct memory *memory = memory_of(endpoint);

    memory_ring_return(&memory->out);
    signal_sleeper(&memory->out.producer_sleeps, memory->data_path_fd);
}

bool memory_wait(struct endpoint *endpoint, int timeout_ms) {
    struct memory *memory = memory_of(endpoint);
    struct pollfd fd = {.fd = memory->other_fd, .events = POLLIN};
    uint64_t deadline_ms = clock_ns() / 1000000 + (uint64_t)(timeout_ms < 0 ? 0 : timeout_ms);
    int left = timeout_ms;

    /* Woken is not yet given: the signal may be of a frame that was found without waiting, the time before. */
    for (;;) {
        fall_asleep(&memory->out.consumer_sleeps);
        if (memory_peek(endpoint) != NULL || (timeout_ms >= 0 && left < 0) || poll(&fd, 1, left) != 1) {
            break;
        }
        drain(memory->other_fd);
        left = timeout_ms < 0 ? -1 : (int)(int64_t)(deadline_ms - clock_ns() / 1000000);
    }
    __atomic_store_n(&memory->out.consumer_sleeps, false, __ATOMIC_RELAXED);
    return memory_peek(endpoint) != NULL;
}

void memory_set_up(struct endpoint *endpoint, bool up) {
    const uint64_t one = 1;

    __atomic_store_n(&memory_of(endpoint)->up, up, __ATOMIC_RELAXED);
    (void)!write(memory_of(endpoint)->data_path_fd, &one, sizeof(one));
}
