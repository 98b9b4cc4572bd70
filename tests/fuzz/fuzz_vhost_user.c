/* A hostile front-end, and a hostile guest behind it.
 *
 * An input is a row of records (records.h), each one thing that the front-end, the guest, or the data path does; see
 * enum what. RAW takes bytes of the input behind it as bytes of the connection. Unless its highest bit is set, the
 * endpoint gets a turn after each record.
 *
 * What must hold: no crash and no wait, whatever comes; behind the conversation no descriptor and no mapping is left;
 * each connection ended for exactly one reason that was counted; frames from the guest lie where they may; an honest
 * front-end is then served at once.
 */
#include <fcntl.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "files.h"
#include "front_end.h"
#include "records.h"
#include "say_any.h"

#define NO_TURN 0x80
#define MAX_FLOOD 600
#define FRAMES 4
#define MAX_WAIT_S 4.0 /* seconds that this thread may have been off the processor in one input */

enum what {
    NEGOTIATE,  /* all of it: a, b: sizes as powers of two; e: features */
    SAY,        /* a message: a: request; b: variant; c: ring; d, e: its fields */
    RAW,        /* d: bytes of the connection, from the input; a: descriptors */
    CHAIN,      /* an offered chain: c: ring; a: descriptors; d: offset and length; b: variant */
    POKE,       /* guest memory: a: bytes of e; d: where */
    AVAILABLE,  /* c: ring; a: how far its index moves */
    RECEIVE,    /* a: most frames; d, e: poked while they are held */
    SEND,       /* a: frames; d: length and offload */
    TURN,       /* a: what is wanted */
    EVENTS,     /* a: what happens to the eventfds of ring c */
    CONNECTION, /* a: it ends, half of it ends, another comes */
    FILES,      /* a: what happens to the memory that was handed over; d: a size */
    FLOOD,      /* d: requests whose answers nobody reads */
    FLUSH,
    WHATS
};

static struct front_end front_end;
static uint8_t payload[FRAME_MAX];
static volatile uint8_t seen; /* so that what is read is read */

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static size_t do_raw(const struct record *record, const uint8_t *data, size_t size) {
    size_t len = record->d % 513;
    unsigned n = record->a % 4;
    int files[4];

    len = len < size ? len : size;
    for (unsigned i = 0; i < n; i++) {
        files[i] = files_new(record->b + i, front_end.file);
    }
    files_close(len > 0 && say_bytes(front_end.connection, data, len, files, n), files, n);
    return len;
}

static void do_chain(const struct record *record) {
    unsigned ring = record->c & 1, most = front_end.size[ring], n = 1 + record->a % 40;
    uint32_t at = TABLE_AT(ring), offset = record->d & 0x7fff, len = record->d >> 16;
    uint16_t write = ring == VHOST_RX ? VRING_DESC_F_WRITE : 0, head = (uint16_t)(record->e & 0xff);

    if (most == 0) {
        return;
    }
    head %= (uint16_t)most;
    if (record->b & 1) { /* the chain is in an indirect table */
        put_descriptor(&front_end, at + head * 16U, GUEST_0 + INDIRECT_AT, n * 16, VRING_DESC_F_INDIRECT, 0);
        offer(&front_end, ring, head);
        at = INDIRECT_AT;
        head = 0;
        most = n;
    } else {
        offer(&front_end, ring, head);
    }
    for (unsigned i = 0; i < n; i++) {
        uint16_t flags = write, here = (uint16_t)((head + i) % most), next = (uint16_t)((here + 1) % most);

        if (i + 1 < n || record->b & 2) {
            flags |= VRING_DESC_F_NEXT;
        }
        flags ^= record->b & 4 && i == 1 ? (uint16_t)(record->e >> 16) : 0;
        put_descriptor(&front_end, at + here * 16U, GUEST_1 + offset + (record->b & 8 ? record->e : 0),
                       i == 0 && !(record->b & 16) ? 12 : len / n, flags,
                       record->b & 32 ? (uint16_t)(record->e >> 32) : next);
    }
}

/* Look at all that the endpoint gave, as whoever gets it does. */
static void check_frame(const struct frame *frame) {
    uint64_t len = 0;

    must(frame->parts >= 1 && frame->parts <= FRAME_PARTS && frame->len >= POLICY_ETHER && frame->len <= FRAME_MAX);
    must(frame->part[0].iov_base == frame->head);
    must(frame->part[0].iov_len >= (frame->len < FRAME_HEAD ? frame->len : FRAME_HEAD));
    for (uint32_t i = 0; i < frame->parts; i++) {
        const uint8_t *bytes = frame->part[i].iov_base;

        len += frame->part[i].iov_len;
        for (size_t j = 0; j < frame->part[i].iov_len; j += 64) {
            seen = bytes[j];
        }
        if (frame->part[i].iov_len > 0) {
            seen = bytes[frame->part[i].iov_len - 1];
        }
    }
    must(len == frame->len);
}

static void do_receive(const struct record *record) {
    static struct frame frames[FRAME_BATCH];
    unsigned most = 1 + record->a % FRAME_BATCH, n = port->ops->receive(port, frames, most);

    must(n <= most);
    poke(&front_end, record->d, &record->e, sizeof record->e);
    for (unsigned i = 0; i < n; i++) {
        check_frame(&frames[i]);
    }
    port->ops->release(port);
}

static void do_send(const struct record *record) {
    static struct frame frames[FRAMES];
    struct frame *list[FRAMES];
    unsigned n = 1 + record->a % FRAMES;
    uint64_t before = 0, after = 0;

    for (unsigned i = 0; i < VERDICTS; i++) {
        before += sent[i].frames;
    }
    (void)port->ops->room(port);
    for (unsigned i = 0; i < n; i++) {
        uint32_t len = POLICY_ETHER + record->d % (FRAME_MAX - POLICY_ETHER + 1);
        size_t first = record->b & 1 && len > FRAME_HEAD ? FRAME_HEAD : len;

        list[i] = &frames[i];
        frames[i] = (struct frame){.len = len, .parts = first < len ? 2 : 1, .tag_tpid = record->b & 2 ? 0x8100 : 0};
        frames[i].part[0] = (struct iovec){.iov_base = payload, .iov_len = first};
        frames[i].part[1] = (struct iovec){.iov_base = payload + first, .iov_len = len - first};
        if (record->b & 4) {
            frames[i].offload = (struct offload){
                .flags = 1, .csum_start = (uint16_t)record->e & 0xff, .csum_offset = (uint16_t)(record->e >> 8) & 31};
        }
        if (record->b & 8) {
            frames[i].offload.gso_type = record->b & 16 ? 4 : 1;
            frames[i].offload.gso_size = (uint16_t)(1 + (record->e >> 16 & 0x3fff));
            frames[i].offload.hdr_len = 54;
        }
    }
    port->ops->send(port, list, n, sent);
    for (unsigned i = 0; i < VERDICTS; i++) {
        after += sent[i].frames;
    }
    must(after - before == n);
}

/* Write to an eventfd without waiting. */
static void add(int event, uint64_t number) {
    must(fcntl(event, F_SETFL, O_NONBLOCK) == 0);
    (void)write(event, &number, sizeof number);
}

static void do_events(const struct record *record) {
    unsigned ring = record->c & 1;
    uint64_t number = record->e;

    switch (record->a % 6) {
    case 0:
        add(front_end.kick[ring], 1);
        break;
    case 1:
        add(front_end.kick[ring], number);
        break;
    case 2: /* full: the endpoint must not wait for somebody to read it */
        add(front_end.call[ring], UINT64_MAX - 1);
        (void)read(front_end.call[ring], &number, sizeof number);
        add(front_end.call[ring], UINT64_MAX - 1);
        if (record->b & 1) {
            (void)fcntl(front_end.call[ring], F_SETFL, 0);
        }
        break;
    case 3:
        (void)fcntl(front_end.kick[ring], F_SETFL, 0);
        break;
    case 4:
        (void)fcntl(front_end.call[ring], F_SETFL, O_NONBLOCK);
        (void)read(front_end.call[ring], &number, sizeof number);
        break;
    default: { /* both are the same */
        const uint64_t word = ring;

        (void)say(front_end.connection, SAY_SET_VRING_CALL, VHOST_VERSION, &word, 8, &front_end.kick[ring], 1);
        break;
    }
    }
}

static void do_connection(const struct record *record) {
    int second;

    switch (record->a % 4) {
    case 0:
        (void)shutdown(front_end.connection, SHUT_WR);
        break;
    case 1: /* the old one's end and the new one's beginning at once */
        second = new_connection();
        if (second >= 0) {
            close(front_end.connection);
            front_end.connection = second;
        }
        break;
    case 2:
        close(front_end.connection);
        port_turn(true, true);
        front_end.connection = new_connection();
        must(front_end.connection >= 0);
        break;
    default: /* a second one, which comes and goes */
        second = new_connection();
        if (second >= 0) {
            if (record->b & 1) {
                port_turn(false, false);
            }
            (void)say(second, SAY_GET_FEATURES, VHOST_VERSION, NULL, 0, &front_end.file, record->b >> 1 & 1);
            close(second);
        }
        break;
    }
}

static void do_flood(const struct record *record) {
    static const uint8_t requests[] = {SAY_GET_FEATURES, SAY_GET_QUEUE_NUM, SAY_GET_VRING_BASE, SAY_SEND_RARP};
    const uint32_t state[2] = {record->c & 1, 0};
    uint32_t request = requests[record->a % sizeof requests];

    for (uint32_t i = 0; i < record->d % MAX_FLOOD; i++) {
        if (!say(front_end.connection, request, VHOST_VERSION | VHOST_NEED_REPLY, state, record->a % 4 < 2 ? 0 : 8,
                 NULL, 0)) {
            port_turn(false, false);
        }
    }
}

static size_t do_record(const struct record *record, const uint8_t *data, size_t size) {
    switch ((enum what)((record->what & ~NO_TURN) % WHATS)) {
    case NEGOTIATE:
        front_end_negotiate(&front_end, record->e | 1ULL << 32, 1U << record->a % 9, 1U << record->b % 9);
        break;
    case SAY:
        front_end_say_any(&front_end, record);
        break;
    case RAW:
        return do_raw(record, data, size);
    case CHAIN:
        do_chain(record);
        break;
    case POKE:
        poke(&front_end, record->d, &record->e, 1 + record->a % sizeof record->e);
        break;
    case AVAILABLE:
        front_end.available[record->c & 1] = (uint16_t)(front_end.available[record->c & 1] + (int8_t)record->a);
        poke16(&front_end, AVAILABLE_AT(record->c & 1) + 2, front_end.available[record->c & 1]);
        break;
    case RECEIVE:
        do_receive(record);
        break;
    case SEND:
        do_send(record);
        break;
    case TURN:
        port_turn(record->a & 1, record->a >> 1 & 1);
        break;
    case EVENTS:
        do_events(record);
        break;
    case CONNECTION:
        do_connection(record);
        break;
    case FILES:
        files_spoil(record->a % 3, record->d);
        (void)ftruncate(front_end.file, record->d % FILE_BYTES);
        break;
    case FLOOD:
        do_flood(record);
        break;
    case FLUSH:
    case WHATS:
        port->ops->flush(port);
        break;
    }
    return 0;
}

/* Each connection that ended did so for one reason. */
static void check_reasons(void) {
    uint64_t ended = device->disconnections;

    for (unsigned i = FAULT_NONE; i < FAULTS; i++) {
        ended += device->faults[i];
    }
    must(device->faults[FAULT_NONE] == 0 && device->connections == ended);
}

static double seconds(clockid_t clock) {
    struct timespec now;

    must(clock_gettime(clock, &now) == 0);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

/* How often this thread gave up the processor of its own accord. */
static long waits(void) {
    struct rusage usage;

    must(getrusage(RUSAGE_THREAD, &usage) == 0);
    return usage.ru_nvcsw;
}

/* What time it was not running. A timeout would not tell: libFuzzer's own alarm ends a system call that waits. */
static double waited(void) {
    return seconds(CLOCK_MONOTONIC) - seconds(CLOCK_THREAD_CPUTIME_ID);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    double waited_before = waited();
    long waits_before = waits();
    struct record record;
    unsigned files;

    if (port == NULL) {
        port_open(true);
        files_set_up();
        check_alive();
        (void)count_files();
    }
    files = count_files(); /* libFuzzer opens some now and then */
    front_end_open(&front_end);
    for (unsigned i = 0; i < MAX_RECORDS && size >= sizeof record; i++) {
        size_t used;

        memcpy(&record, data, sizeof record);
        data += sizeof record;
        size -= sizeof record;
        used = do_record(&record, data, size);
        data += used;
        size -= used;
        if (!(record.what & NO_TURN)) {
            port_turn(true, i % 2 == 0);
        }
    }
    files_forget();
    front_end_close(&front_end);
    check_reasons();
    check_alive();
    check_reasons();
    must(count_files() == files && count_mappings() == 0);
    /* A busy machine keeps us off the processor, too, but not because we wanted to. */
    must(waits() == waits_before || waited() - waited_before < MAX_WAIT_S);
    return 0;
}
