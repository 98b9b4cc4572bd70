#include "capture.h"

#include <errno.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* pcapng block types, options and the byte order mark. */
#define SECTION 0x0A0D0D0AU
#define INTERFACE 1U
#define ENHANCED_PACKET 6U
#define ORDER_MARK 0x1A2B3C4DU
#define LINKTYPE_ETHERNET 1U
#define IF_NAME 2U
#define IF_TSRESOL 9U
#define COMMENT 1U
#define END_OF_OPTIONS 0U
#define MAC_BYTES 12U
#define TAG_BYTES 4U
/* What an enhanced packet block has beyond the frame: fixed fields, the longest comment, padding. */
#define PACKET_OVERHEAD 96U

static const char *const INTERFACES[DIRECTIONS] = {"port", "vm"};
static const char *const VERDICT_NAMES[VERDICTS] = {
    "passed",       "runt", "oversized",  "tags",    "spoofed",   "destination", "ethertype",
    "link_address", "rate", "group_rate", "offload", "no_buffer", "down",        "failed",
};

static void put(struct capture *capture, const void *bytes, size_t len) {
    memcpy(capture->buffer + capture->filled, bytes, len);
    capture->filled += len;
}

static void put32(struct capture *capture, uint32_t value) {
    put(capture, &value, sizeof value);
}

static void pad(struct capture *capture) {
    while (capture->filled % 4 != 0) {
        capture->buffer[capture->filled++] = 0;
    }
}

static void put_option(struct capture *capture, uint32_t code, const void *bytes, size_t len) {
    put32(capture, code | (uint32_t)len << 16);
    put(capture, bytes, len);
    pad(capture);
}

/* Close the block that began at `start` with its length, which stands at both ends. */
static void end_block(struct capture *capture, size_t start) {
    uint32_t len = (uint32_t)(capture->filled - start) + 4;

    put32(capture, len);
    memcpy(capture->buffer + start + 4, &len, sizeof len);
    capture->written += len;
}

static bool drain(struct capture *capture) {
    size_t done = 0;

    while (done < capture->filled) {
        ssize_t wrote = write(capture->file, capture->buffer + done, capture->filled - done);

        if (wrote <= 0 && !(wrote < 0 && errno == EINTR)) {
            return false;
        }
        done += wrote > 0 ? (size_t)wrote : 0;
    }
    capture->filled = 0;
    return true;
}

static void put_headers(struct capture *capture) {
    static const uint8_t nanoseconds = 9;
    size_t start = capture->filled;
    int64_t unknown = -1;

    put32(capture, SECTION);
    put32(capture, 0);
    put32(capture, ORDER_MARK);
    put32(capture, 1); /* version 1.0 */
    put(capture, &unknown, sizeof unknown);
    end_block(capture, start);
    for (int i = 0; i < DIRECTIONS; i++) {
        start = capture->filled;
        put32(capture, INTERFACE);
        put32(capture, 0);
        put32(capture, LINKTYPE_ETHERNET);
        put32(capture, 0); /* no snapshot length */
        put_option(capture, IF_NAME, INTERFACES[i], strlen(INTERFACES[i]));
        put_option(capture, IF_TSRESOL, &nanoseconds, 1);
        put32(capture, END_OF_OPTIONS);
        end_block(capture, start);
    }
}

void capture_init(struct capture *capture) {
    memset(capture, 0, sizeof *capture);
    pthread_mutex_init(&capture->lock, NULL);
    capture->file = -1;
}

int capture_start(struct capture *capture, int file, uint64_t limit) {
    int result = 0;

    pthread_mutex_lock(&capture->lock);
    if (capture->on || limit < CAPTURE_MIN) {
        errno = capture->on ? EBUSY : EINVAL;
        result = -1;
    } else {
        capture->file = file;
        capture->limit = limit;
        capture->written = capture->frames = capture->missed = 0;
        capture->filled = 0;
        put_headers(capture);
        __atomic_store_n(&capture->on, true, __ATOMIC_RELAXED);
    }
    pthread_mutex_unlock(&capture->lock);
    return result;
}

bool capture_stop(struct capture *capture) {
    bool was;

    pthread_mutex_lock(&capture->lock);
    was = capture->on;
    if (was) {
        __atomic_store_n(&capture->on, false, __ATOMIC_RELAXED);
        drain(capture);
        close(capture->file);
        capture->file = -1;
    }
    pthread_mutex_unlock(&capture->lock);
    return was;
}

void capture_frame(struct capture *capture, const struct frame *frame, enum direction from, enum verdict verdict) {
    uint32_t tag = frame->tag_tpid == 0 ? 0 : TAG_BYTES;
    uint32_t len = frame->len + tag;
    struct timespec now;
    uint64_t ns;
    size_t start;
    const char *name = VERDICT_NAMES[verdict];

    pthread_mutex_lock(&capture->lock);
    if (!capture->on) {
        goto out;
    }
    if (capture->written + len + PACKET_OVERHEAD > capture->limit ||
        (capture->filled + len + PACKET_OVERHEAD > CAPTURE_BUFFER && !drain(capture))) {
        capture->missed++;
        goto out;
    }
    clock_gettime(CLOCK_REALTIME, &now);
    ns = (uint64_t)now.tv_sec * 1000000000U + (uint64_t)now.tv_nsec;
    start = capture->filled;
    put32(capture, ENHANCED_PACKET);
    put32(capture, 0);
    put32(capture, (uint32_t)from);
    put32(capture, (uint32_t)(ns >> 32));
    put32(capture, (uint32_t)ns);
    put32(capture, len);
    put32(capture, len);
    for (uint32_t i = 0; i < frame->parts; i++) {
        const uint8_t *bytes = frame->part[i].iov_base;
        size_t size = frame->part[i].iov_len;

        if (i == 0 && tag != 0) {
            const uint8_t written[TAG_BYTES] = {(uint8_t)(frame->tag_tpid >> 8), (uint8_t)frame->tag_tpid,
                                                (uint8_t)(frame->tag_tci >> 8), (uint8_t)frame->tag_tci};

            put(capture, bytes, MAC_BYTES);
            put(capture, written, TAG_BYTES);
            bytes += MAC_BYTES;
            size -= MAC_BYTES;
        }
        put(capture, bytes, size);
    }
    pad(capture);
    put_option(capture, COMMENT, name, strlen(name));
    put32(capture, END_OF_OPTIONS);
    end_block(capture, start);
    capture->frames++;
out:
    pthread_mutex_unlock(&capture->lock);
}

void capture_flush(struct capture *capture) {
    pthread_mutex_lock(&capture->lock);
    if (capture->on && !drain(capture)) {
        /* A full disk: what is left is dropped, the file ends at a whole block or is cut by the reader. */
        capture->missed++;
        capture->filled = 0;
    }
    pthread_mutex_unlock(&capture->lock);
}
