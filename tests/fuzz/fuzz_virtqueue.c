/* Hostile rings and descriptors, beside a second opinion of which bytes of the guest's memory an endpoint may touch.
 *
 * An input is a row of records (records.h): descriptors, indices and bytes in the guest's memory, then frames one way
 * or the other; see enum what. The second opinion reads the rings as the guest left them, before the endpoint does.
 *
 * What must hold, besides what the pages around each region see to (front_end.h): with a frame to the guest, nothing
 * changes but the bytes of offered, writable buffers and the used ring; what was passed is there, in used buffers that
 * hold it; a frame from the guest is what a chain says, byte for byte, and nothing but the used ring changes.
 */
#include <endian.h>
#include <linux/virtio_net.h>
#include <string.h>

#include "front_end.h"
#include "records.h"

#define VIRTIO_HEADER 12U
#define MAX_RANGES 4096U   /* of offered chains */
#define LINE 64U           /* bytes compared at once */
#define TABLES_END 0x8000U /* what lies below decides what the endpoint does */

enum what {
    DESCRIPTOR, /* a: its number; b: ring or indirect table, and variants; c: flags; d: length; e: address, next */
    HEAD,       /* c: ring; a: the head that is offered next, b: how many times */
    INDEX,      /* c: ring; a: which; d: value */
    BYTES,      /* a: how many of e; d: where */
    CHAIN,      /* an honest chain: c: ring; a: parts; b: indirect, first; d: place and length */
    SEND,       /* a: kind; d: length; e: more of it */
    RECEIVE,    /* a: most frames */
    SLEEP,      /* c: ring */
    WHATS
};

struct range {
    uint32_t at, len; /* in the memory */
};

struct chain_seen {
    uint16_t head;
    bool good;              /* and all of its ranges are known */
    uint32_t first, ranges; /* in ranges[] */
    uint64_t len;
};

static struct front_end front_end;
static uint8_t before[FILE_BYTES], payload[FRAME_MAX], gathered[FRAME_MAX + VIRTIO_HEADER + 8];
static uint8_t allowed[FILE_BYTES]; /* 1: may change */
static struct range ranges[MAX_RANGES];
static uint32_t ranges_count;
static struct chain_seen chains[MAX_QUEUE];
static uint32_t chains_count;
static bool indirect; /* negotiated */

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static uint16_t word(uint32_t at) {
    return (uint16_t)(before[at] | before[at + 1] << 8);
}

/* The offset of a guest-physical range in the memory, or FILE_BYTES. */
static uint32_t place_of(uint64_t address, uint64_t len) {
    static const uint64_t regions[2] = {GUEST_0, GUEST_1};

    for (unsigned i = 0; i < 2; i++) {
        if (address >= regions[i] && address < regions[i] + REGION_BYTES &&
            len <= regions[i] + REGION_BYTES - address) {
            return (uint32_t)(address - regions[i] + i * REGION_BYTES);
        }
    }
    return FILE_BYTES;
}

static void read_chain(unsigned ring, uint16_t head) {
    struct chain_seen *chain = &chains[chains_count++];
    uint32_t table = TABLE_AT(ring), size = front_end.size[ring], index = head, steps = 0;
    bool nested = false;

    *chain = (struct chain_seen){.head = head, .first = ranges_count};
    while (index < size && steps++ < size && ranges_count < MAX_RANGES) {
        struct vring_desc descriptor;
        uint16_t flags;
        uint32_t len, at;

        memcpy(&descriptor, before + table + index * sizeof descriptor, sizeof descriptor);
        flags = le16toh(descriptor.flags);
        len = le32toh(descriptor.len);
        at = place_of(le64toh(descriptor.addr), len);
        if (at == FILE_BYTES) {
            return;
        }
        if (flags & VRING_DESC_F_INDIRECT) {
            if (nested || !indirect || len % 16 != 0) {
                return;
            }
            nested = true;
            table = at;
            size = len / 16;
            index = steps = 0;
            continue;
        }
        ranges[ranges_count++] = (struct range){at, len};
        chain->ranges++;
        chain->len += len;
        if ((flags & VRING_DESC_F_WRITE ? VHOST_RX : VHOST_TX) != (int)ring || len == 0) {
            chain->ranges--;
            ranges_count--;
            return;
        }
        if (!(flags & VRING_DESC_F_NEXT)) {
            chain->good = true;
            return;
        }
        index = le16toh(descriptor.next);
    }
}

/* Read all that is offered, as it is in `before`. `from`: the index that the endpoint takes next. */
static void read_ring(unsigned ring, uint16_t from) {
    uint16_t offered = word(AVAILABLE_AT(ring) + 2), n = (uint16_t)(offered - from);

    ranges_count = chains_count = 0;
    for (uint16_t i = 0; n <= front_end.size[ring] && i < n; i++) {
        uint16_t slot = (uint16_t)((from + i) & (front_end.size[ring] - 1));

        read_chain(ring, word(AVAILABLE_AT(ring) + 4 + 2U * slot));
    }
}

/* May it change, but for the frames' bytes? */
static void allow_used(unsigned ring) {
    uint32_t size = front_end.size[ring];

    memset(allowed, 0, sizeof allowed);
    memset(allowed + USED_AT(ring), 1, 4 + 8 * size + 2);
    /* The answer to "kick me": wake() says so of both. */
    memset(allowed + USED_AT(VHOST_RX), 1, 2);
    memset(allowed + USED_AT(VHOST_TX), 1, 2);
}

static void check_changes(void) {
    for (uint32_t at = 0; at < FILE_BYTES; at += LINE) {
        if (memcmp(front_end.memory + at, before + at, LINE) == 0) {
            continue;
        }
        for (uint32_t i = at; i < at + LINE; i++) {
            must(allowed[i] || front_end.memory[i] == before[i]);
        }
    }
}

/* Gather `len` bytes of a chain from `memory`. */
static uint32_t gather(const struct chain_seen *chain, const uint8_t *memory, uint32_t len, uint8_t *to,
                       uint32_t most) {
    uint32_t done = 0;

    for (uint32_t i = 0; i < chain->ranges && done < len; i++) {
        const struct range *range = &ranges[chain->first + i];
        uint32_t n = range->len < len - done ? range->len : len - done;

        n = n < most - done ? n : most - done;
        memcpy(to + done, memory + range->at, n);
        done += n;
    }
    return done;
}

/* Do buffers lie over each other, or over what decides? */
static bool tangled(void) {
    static uint8_t owner[FILE_BYTES];

    memset(owner, 0, sizeof owner);
    for (uint32_t i = 0; i < ranges_count; i++) {
        if (ranges[i].at < TABLES_END || memchr(owner + ranges[i].at, 1, ranges[i].len) != NULL) {
            return true;
        }
        memset(owner + ranges[i].at, 1, ranges[i].len);
    }
    return false;
}

static void check_delivered(uint16_t used, uint32_t len, bool tagged) {
    uint16_t now = peek16(&front_end, USED_AT(VHOST_RX) + 2), n = (uint16_t)(now - used);
    uint32_t done = 0, size = front_end.size[VHOST_RX];

    must(n >= 1 && n <= chains_count);
    for (uint16_t i = 0; i < n; i++) {
        uint32_t entry[2];

        memcpy(entry, front_end.memory + USED_AT(VHOST_RX) + 4 + 8U * ((used + i) & (size - 1)), sizeof entry);
        must(le32toh(entry[0]) == chains[i].head && le32toh(entry[1]) <= chains[i].len);
        done +=
            gather(&chains[i], front_end.memory, le32toh(entry[1]), gathered + done, (uint32_t)sizeof gathered - done);
    }
    must(done == VIRTIO_HEADER + len + (tagged ? 4 : 0));
    must((gathered[10] | gathered[11] << 8) == n);
    must(memcmp(gathered + VIRTIO_HEADER, payload, 12) == 0);
    if (tagged) {
        must(memcmp(gathered + VIRTIO_HEADER + 12, "\x81\x00\x00\x07", 4) == 0);
        must(memcmp(gathered + VIRTIO_HEADER + 16, payload + 12, len - 12) == 0);
    } else {
        must(memcmp(gathered + VIRTIO_HEADER, payload, len) == 0);
    }
}

static void do_send(const struct record *record) {
    static struct frame frame;
    struct frame *list = &frame;
    uint32_t len = POLICY_ETHER + record->d % (record->a & 1 ? 1501U : 20000U), first = len;
    uint16_t used = device->ring[VHOST_RX].queue.next;
    uint64_t passed = sent[VERDICT_PASSED].frames;
    bool running = vhost_user_running(device, VHOST_RX);

    if (record->a & 2 && len > FRAME_HEAD) {
        first = FRAME_HEAD + record->e % (len - FRAME_HEAD);
    }
    memcpy(before, front_end.memory, sizeof before);
    read_ring(VHOST_RX, used);
    frame = (struct frame){.len = len, .parts = first < len ? 2 : 1};
    frame.part[0] = (struct iovec){.iov_base = payload, .iov_len = first};
    frame.part[1] = (struct iovec){.iov_base = payload + first, .iov_len = len - first};
    frame.tag_tpid = record->a & 4 ? 0x8100 : 0;
    frame.tag_tci = 7;
    (void)port->ops->room(port);
    port->ops->send(port, &list, 1, sent);
    port->ops->flush(port);
    if (tangled()) {
        return; /* one buffer's bytes are another's, or the rings' */
    }
    allow_used(VHOST_RX);
    for (uint32_t i = 0; i < ranges_count && running; i++) {
        memset(allowed + ranges[i].at, 1, ranges[i].len);
    }
    check_changes();
    if (sent[VERDICT_PASSED].frames != passed) {
        must(running);
        check_delivered(used, len, record->a & 4);
    }
}

/* May what the chain holds be a frame, and must it be? Its bytes are in gathered[]. */
static bool is_frame(const struct chain_seen *chain, bool *surely) {
    if (!chain->good || chain->len < VIRTIO_HEADER + POLICY_ETHER || chain->len > VIRTIO_HEADER + FRAME_MAX ||
        chain->ranges > CHAIN_PARTS) {
        return false;
    }
    must(gather(chain, before, (uint32_t)chain->len, gathered, sizeof gathered) == chain->len);
    *surely = gathered[0] == 0 && gathered[1] == 0 && chain->ranges < CHAIN_PARTS;
    return true;
}

static void do_receive(const struct record *record) {
    static struct frame frames[FRAME_BATCH];
    uint16_t next = device->ring[VHOST_TX].queue.next;
    unsigned most = 1 + record->a % FRAME_BATCH, n;
    uint32_t chain = 0;
    bool running = vhost_user_running(device, VHOST_TX), surely;

    memcpy(before, front_end.memory, sizeof before);
    read_ring(VHOST_TX, next);
    n = port->ops->receive(port, frames, most);
    must(n <= most && (running || n == 0));
    for (uint32_t i = 0; i < ranges_count; i++) {
        if (ranges[i].at < TABLES_END) { /* among the bytes may be some of the rings, which have changed */
            port->ops->release(port);
            return;
        }
    }
    for (unsigned i = 0; i < n; i++) {
        const struct frame *frame = &frames[i];
        uint32_t at = 0;

        for (;; chain++) {
            must(chain < chains_count);
            surely = false;
            if (is_frame(&chains[chain], &surely) && frame->len == chains[chain].len - VIRTIO_HEADER &&
                memcmp(frame->head, gathered + VIRTIO_HEADER, frame->part[0].iov_len) == 0) {
                break;
            }
            must(!surely);
        }
        chain++;
        must(frame->part[0].iov_base == frame->head && frame->parts <= FRAME_PARTS);
        for (uint32_t part = 0; part < frame->parts; part++) {
            must(frame->part[part].iov_len <= frame->len - at);
            must(memcmp(frame->part[part].iov_base, gathered + VIRTIO_HEADER + at, frame->part[part].iov_len) == 0);
            at += (uint32_t)frame->part[part].iov_len;
        }
        must(at == frame->len);
    }
    port->ops->release(port);
    port->ops->flush(port);
    allow_used(VHOST_TX);
    check_changes();
}

static void do_descriptor(const struct record *record) {
    uint32_t at = record->b & 1 ? INDIRECT_AT : TABLE_AT(record->b >> 1 & 1);
    uint16_t flags = record->c & 7, next = (uint16_t)(record->e >> 48);
    uint64_t address = GUEST_1 + (record->e & 0x7fff);

    if (record->b & 4) { /* near the end of a region; or its beginning; or anywhere */
        address = (record->b & 8 ? GUEST_0 : GUEST_1) + REGION_BYTES - (record->e & 0xff) + (record->e >> 8 & 1);
    }
    if (record->b & 128) {
        address = (record->b & 8 ? GUEST_0 : GUEST_1) - (record->e & 0xff);
    }
    if (record->b & 16) {
        address = record->e & 0x0000ffffffffffff;
    }
    if (record->b & 32) {
        address = GUEST_0 + (record->e & 0x7fff);
    }
    if (record->b & 64) { /* an indirect table */
        address = GUEST_0 + INDIRECT_AT;
        flags |= VRING_DESC_F_INDIRECT;
    }
    put_descriptor(&front_end, at + record->a * 16U, address, record->d, flags, next);
}

static void do_chain(const struct record *record) {
    unsigned ring = record->c & 1;
    uint16_t size = (uint16_t)front_end.size[ring], head = (uint16_t)((record->b >> 2) % size);
    uint16_t n = (uint16_t)(1 + record->a % 28), write = ring == VHOST_RX ? VRING_DESC_F_WRITE : 0;
    uint32_t at = TABLE_AT(ring), place = BUFFERS_AT + (record->d & 0x7fff), len = record->d >> 16;

    if (record->b & 1) {
        put_descriptor(&front_end, at + head * 16U, guest_of(INDIRECT_AT), n * 16U, VRING_DESC_F_INDIRECT, 0);
        offer(&front_end, ring, head);
        at = INDIRECT_AT;
        head = 0;
        size = n;
    } else {
        n = n < size ? n : size;
        offer(&front_end, ring, head);
    }
    for (uint16_t i = 0; i < n; i++) {
        uint16_t here = (uint16_t)((head + i) % size), next = (uint16_t)((here + 1) % size);
        uint32_t part = i == 0 && record->b & 2 ? VIRTIO_HEADER : 1 + len / n;

        put_descriptor(&front_end, at + here * 16U, guest_of(place), part,
                       (uint16_t)(write | (i + 1 < n ? VRING_DESC_F_NEXT : 0)), next);
        place += part;
    }
}

static void do_record(const struct record *record) {
    unsigned ring = record->c & 1;

    switch ((enum what)(record->what % WHATS)) {
    case DESCRIPTOR:
        do_descriptor(record);
        break;
    case HEAD:
        for (unsigned i = 0; i <= record->b % 64U; i++) {
            offer(&front_end, ring, record->a == 255 ? (uint16_t)record->d : record->a);
        }
        break;
    case INDEX:
        if (record->a & 1) {
            front_end.available[ring] = (uint16_t)record->d;
            poke16(&front_end, AVAILABLE_AT(ring) + 2, (uint16_t)record->d);
        } else { /* the endpoint's own index is in its own memory */
            poke16(&front_end, USED_AT(ring) + 2, (uint16_t)record->d);
        }
        break;
    case BYTES:
        poke(&front_end, record->d, &record->e, 1 + record->a % sizeof record->e);
        break;
    case CHAIN:
        do_chain(record);
        break;
    case SEND:
        do_send(record);
        break;
    case RECEIVE:
        do_receive(record);
        break;
    case SLEEP:
    case WHATS:
        port_turn(ring == VHOST_TX, ring == VHOST_RX);
        break;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    uint64_t features = 1ULL << 32 | 1ULL << 30;
    struct record record;

    if (port == NULL) {
        port_open(true);
        for (uint32_t i = 0; i < sizeof payload; i++) {
            payload[i] = (uint8_t)(i * 13 + i / 256 + 1);
        }
        payload[12] = 8;
    }
    if (size < sizeof record) {
        return 0;
    }
    memcpy(&record, data, sizeof record); /* the first chooses the queues, and where their indices begin */
    indirect = (record.a & 1) == 0;
    features |= (record.a & 1 ? 0 : 1ULL << 28) | (record.a & 2 ? 0 : 1ULL << 15) | (record.a & 4 ? 1ULL << 29 : 0) |
                (record.a & 8 ? 0 : 1ULL << 0 | 1ULL << 1 | 1ULL << 11 | 1ULL << 12);
    front_end_open(&front_end);
    for (unsigned i = 0; i < VHOST_QUEUES; i++) {
        front_end.available[i] = (uint16_t)record.d;
        poke16(&front_end, USED_AT(i) + 2, (uint16_t)record.d);
        poke16(&front_end, AVAILABLE_AT(i) + 2, (uint16_t)record.d);
    }
    if (record.e & 1) {
        memcpy(front_end.memory + BUFFERS_AT, payload, FILE_BYTES - BUFFERS_AT);
    }
    front_end_negotiate(&front_end, features, 1U << record.b % 9, 1U << record.c % 9);
    must(port->ops->up(port));
    for (unsigned i = 0; i < MAX_RECORDS && size >= 2 * sizeof record; i++) {
        data += sizeof record;
        size -= sizeof record;
        memcpy(&record, data, sizeof record);
        do_record(&record);
    }
    front_end_close(&front_end);
    return 0;
}
