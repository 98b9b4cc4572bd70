/* Frames of hostile guests through the guest LAN.
 *
 * An input is a row of records: a byte with the sender (bits 0-1),
 * where the frame is split into parts (bit 2), whether a tag lies beside it (bit 3) and segments are asked for (bit 4);
 * two bytes of length, big-endian; the frame. Three ports; port i has the addresses 10.0.0.(i+1) and fd00::(i+1), and
 * the MAC address 02:00:00:00:00:(i+1).
 *
 * What must hold, decided here in another way than lan.c does: a frame has one verdict; one that passed arrives once,
 * unchanged, at the port that owns the address it names, not at its sender, and bears the sender's own addresses; any
 * other arrives nowhere. The first bytes of a frame lie in memory of exactly the size that the contract asks for.
 */
#include <stdlib.h>
#include <string.h>

#include "../../backend/lan/core/lan.h"
#include "../unit/forwarder/c/memory.h"

#define PORTS 3
#define TAG_BESIDE 8
#define SEGMENTS 16

struct source {
    struct endpoint endpoint; /* first: the two are cast into each other */
    bool full;
    struct frame frame;
};

static struct source sources[PORTS];
static struct endpoint *sinks[PORTS];

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void must(bool held) {
    if (!held) {
        abort();
    }
}

/* A port's endpoint: what the guest sends is the record's frame, what it gets goes to an endpoint in memory. */

static unsigned source_receive(struct endpoint *endpoint, struct frame *frames, unsigned max) {
    struct source *source = (struct source *)endpoint;

    if (!source->full || max == 0) {
        return 0;
    }
    source->full = false;
    frames[0] = source->frame;
    return 1;
}

static void source_release(struct endpoint *endpoint) {
    (void)endpoint;
}

static unsigned source_room(struct endpoint *endpoint) {
    struct endpoint *sink = sinks[(struct source *)endpoint - sources];

    return sink->ops->room(sink);
}

static void source_send(struct endpoint *endpoint, struct frame *const *frames, unsigned n, struct counter *counters) {
    struct endpoint *sink = sinks[(struct source *)endpoint - sources];

    sink->ops->send(sink, frames, n, counters);
}

static void source_flush(struct endpoint *endpoint) {
    (void)endpoint;
}

static const struct endpoint_ops source_ops = {
    .receive = source_receive,
    .release = source_release,
    .room = source_room,
    .send = source_send,
    .flush = source_flush,
};

static struct lan *set_up(void) {
    static const struct limit none;
    struct entry entries[2 * PORTS];
    struct lan *lan = lan_new(9014);
    struct table *table;
    size_t which;

    must(lan != NULL);
    for (unsigned i = 0; i < PORTS; i++) {
        const uint8_t mac[6] = {2, 0, 0, 0, 0, (uint8_t)(i + 1)};

        sources[i].endpoint.ops = &source_ops;
        sinks[i] = memory_open(4, FRAME_MAX, FROM_VM);
        must(sinks[i] != NULL);
        lan_add(lan, &sources[i].endpoint, &none, &none);
        entries[2 * i] = (struct entry){.low = 0x0a000001 + i, .family = 4, .port = (uint8_t)i};
        entries[2 * i + 1] = (struct entry){.high = 0xfd00000000000000U, .low = 1 + i, .family = 6, .port = (uint8_t)i};
        memcpy(entries[2 * i].mac, mac, sizeof(mac));
        memcpy(entries[2 * i + 1].mac, mac, sizeof(mac));
    }
    table = table_build(entries, 2 * PORTS, &which);
    must(table != NULL);
    lan_provision(lan, table);
    return lan;
}

static bool is_address(const uint8_t *at, bool six, unsigned port) {
    static const uint8_t four_prefix[3] = {10, 0, 0};
    static const uint8_t six_prefix[15] = {0xfd};
    size_t last = six ? sizeof(six_prefix) : sizeof(four_prefix);

    return memcmp(at, six ? six_prefix : four_prefix, last) == 0 && at[last] == port + 1;
}

static bool is_mac(const uint8_t *at, unsigned port) {
    const uint8_t mac[6] = {2, 0, 0, 0, 0, (uint8_t)(port + 1)};

    return memcmp(at, mac, sizeof(mac)) == 0;
}

/* May this frame have got from the one port to the other? */
static bool allowed(const uint8_t *frame, size_t len, unsigned from, unsigned to) {
    unsigned ethertype;

    if (from == to || len < 14 || len > 9014 || !is_mac(frame + 6, from)) {
        return false;
    }
    ethertype = (unsigned)(frame[12] << 8 | frame[13]);
    if (ethertype == 0x0800) {
        return len >= 34 && is_mac(frame, to) && is_address(frame + 26, false, from) &&
               is_address(frame + 30, false, to);
    }
    if (ethertype == 0x0806) {
        return len >= 42 && is_mac(frame + 22, from) && is_address(frame + 28, false, from) &&
               is_address(frame + 38, false, to) &&
               (is_mac(frame, to) || (memcmp(frame, "\xff\xff\xff\xff\xff\xff", 6) == 0 && frame[21] == 1));
    }
    if (ethertype != 0x86dd || len < 54 || !is_address(frame + 22, true, from)) {
        return false;
    }
    if (frame[20] == 58 && frame[21] == 255 && len > 54) {
        if (frame[54] == 134 || frame[54] == 137) {
            return false;
        }
        if (frame[54] == 136 && (len < 78 || !is_address(frame + 62, true, from))) {
            return false;
        }
        if (frame[54] == 135 && frame[0] == 0x33) {
            return len >= 78 && is_address(frame + 62, true, to) && frame[38] == 0xff && frame[1] == 0x33;
        }
    }
    return is_mac(frame, to) && is_address(frame + 38, true, to);
}

static void check_arrivals(const uint8_t *frame, size_t len, unsigned from, bool passed) {
    unsigned arrived = 0;

    for (unsigned to = 0; to < PORTS; to++) {
        const struct memory_slot *slot;

        while ((slot = memory_peek(sinks[to])) != NULL) {
            arrived++;
            must(slot->len == len && memcmp(slot->bytes, frame, len) == 0);
            must(allowed(frame, len, from, to));
            memory_take(sinks[to]);
        }
        memory_return(sinks[to]);
    }
    must(arrived == (passed ? 1 : 0));
}

static void one_frame(struct lan *lan, unsigned kind, const uint8_t *bytes, size_t len) {
    unsigned from = (kind & 3) % PORTS;
    size_t first = (kind & 4) != 0 && len > FRAME_HEAD ? FRAME_HEAD : len;
    struct frame *frame = &sources[from].frame;
    uint8_t *head = malloc(first + (first == 0));
    uint64_t verdicts = 0;
    bool passed;

    must(head != NULL);
    memcpy(head, bytes, first);
    memset(lan->port[from].counters, 0, sizeof(lan->port[from].counters));
    frame->len = (uint32_t)len;
    frame->parts = first == len ? 1 : 2;
    frame->part[0] = (struct iovec){.iov_base = head, .iov_len = first};
    frame->part[1] = (struct iovec){.iov_base = (void *)(uintptr_t)(bytes + first), .iov_len = len - first};
    frame->tag_tpid = (kind & TAG_BESIDE) != 0 ? 0x8100 : 0;
    frame->offload = (struct offload){0};
    if ((kind & SEGMENTS) != 0) {
        frame->offload.gso_type = 1;
        frame->offload.gso_size = 1000;
        frame->offload.hdr_len = 54;
    }
    sources[from].full = true;
    must(lan_round(lan, 1000000000) == 1);
    for (int i = 0; i < VERDICTS; i++) {
        verdicts += lan->port[from].counters[i].frames;
    }
    must(verdicts == 1);
    passed = lan->port[from].counters[VERDICT_PASSED].frames == 1;
    must(!passed || frame->tag_tpid == 0);
    check_arrivals(bytes, len, from, passed);
    free(head);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static struct lan *lan;

    if (lan == NULL) {
        lan = set_up();
    }
    while (size >= 3) {
        size_t len = (size_t)data[1] << 8 | data[2];
        unsigned kind = data[0];

        data += 3;
        size -= 3;
        len = len < size ? len : size;
        one_frame(lan, kind, data, len);
        data += len;
        size -= len;
    }
    return 0;
}
