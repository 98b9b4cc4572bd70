/* An endpoint over a tap device.
 *
 * Theory of operation. The kernel has no batched system call for a tap: one readv(2) or writev(2) moves one frame with
 * its struct virtio_net_hdr in front (Documentation/networking/tuntap.rst). A frame is read into a buffer of our own,
 * one byte larger than the largest frame, so that one that was cut off shows.
 *
 * Where things end: a tap whose interface was deleted, or whose queue was detached, answers EBADFD and POLLERR for
 * ever; such an endpoint is down for good and has no file descriptor to sleep on, as that would be readable all the
 * time. An interface that is only set down answers EIO to writes: these count as VERDICT_DOWN until one succeeds again.
 */
#include "tap.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "../../forwarder/core/frame_tag.h"
#include "../../forwarder/core/offload.h"

#define HEADER sizeof(struct virtio_net_hdr)
#define BUFFER (FRAME_MAX + 1)
#define STRIDE ((HEADER + BUFFER + 63) / 64 * 64)

struct tap {
    struct endpoint endpoint; /* first: the two are cast into each other */
    int fd;
    bool gone; /* for good */
    bool set_down;
    uint8_t *buffers; /* FRAME_BATCH of them */
};

static struct tap *tap_of(struct endpoint *endpoint) {
    return (struct tap *)endpoint;
}

/* The kernel's own word is taken for what the work is, but not for where. */
static bool tap_offload(struct frame *frame, const struct virtio_net_hdr *header) {
    struct offload *offload = &frame->offload;
    uint8_t gso_type = header->gso_type & (uint8_t)~VIRTIO_NET_HDR_GSO_ECN;

    memset(offload, 0, sizeof(*offload));
    offload->flags = header->flags & (VIRTIO_NET_HDR_F_NEEDS_CSUM | VIRTIO_NET_HDR_F_DATA_VALID);
    if ((offload->flags & VIRTIO_NET_HDR_F_NEEDS_CSUM) != 0) {
        if ((uint32_t)header->csum_start + header->csum_offset + 2 > frame->len) {
            return false;
        }
        offload->csum_start = header->csum_start;
        offload->csum_offset = header->csum_offset;
    }
    if (header->gso_type != VIRTIO_NET_HDR_GSO_NONE) {
        if ((gso_type != VIRTIO_NET_HDR_GSO_TCPV4 && gso_type != VIRTIO_NET_HDR_GSO_TCPV6) || header->gso_size == 0 ||
            (offload->flags & VIRTIO_NET_HDR_F_NEEDS_CSUM) == 0 || header->hdr_len < header->csum_start ||
            header->hdr_len > frame->len) {
            return false;
        }
        offload->gso_type = header->gso_type;
        offload->gso_size = header->gso_size;
        offload->hdr_len = header->hdr_len;
    }
    return true;
}

/* Read one frame; returns its length with header, 0 if there is none. */
static size_t tap_read(struct tap *tap, uint8_t *buffer) {
    struct iovec parts[2] = {{.iov_base = buffer, .iov_len = HEADER}, {.iov_base = buffer + HEADER, .iov_len = BUFFER}};
    ssize_t n;

    do {
        n = readv(tap->fd, parts, 2);
    } while (n < 0 && errno == EINTR);
    if (n < 0 && errno != EAGAIN) {
        tap->gone = true;
    }
    return n < 0 ? 0 : (size_t)n;
}

static unsigned tap_receive(struct endpoint *endpoint, struct frame *frames, unsigned max) {
    struct tap *tap = tap_of(endpoint);
    unsigned n = 0;

    /* Refused frames count against the batch, too: nobody keeps us in this loop. */
    for (unsigned i = 0; i < max && i < FRAME_BATCH && !tap->gone; i++) {
        uint8_t *buffer = tap->buffers + i * STRIDE;
        struct frame *frame = &frames[n];
        struct virtio_net_hdr header;
        size_t len = tap_read(tap, buffer);

        if (len == 0) {
            break;
        }
        if (len <= HEADER || len - HEADER > FRAME_MAX) {
            counter_add(endpoint->counters, len <= HEADER ? VERDICT_RUNT : VERDICT_OVERSIZED, 1,
                        len <= HEADER ? 0 : len - HEADER);
            continue;
        }
        frame->part[0].iov_base = buffer + HEADER;
        frame->part[0].iov_len = len - HEADER;
        frame->parts = 1;
        frame->len = (uint32_t)(len - HEADER);
        frame->tag_tpid = 0;
        frame->tag_tci = 0;
        memcpy(&header, buffer, HEADER);
        if (tap_offload(frame, &header)) {
            n++;
        } else {
            counter_add(endpoint->counters, VERDICT_OFFLOAD, 1, frame->len);
        }
    }
    return n;
}

static void tap_release(struct endpoint *endpoint) {
    (void)endpoint; /* the buffers are read into anew */
}

static unsigned tap_room(struct endpoint *endpoint) {
    (void)endpoint; /* the kernel queues or drops; it does not tell beforehand */
    return FRAME_BATCH;
}

static enum verdict tap_verdict(struct tap *tap, ssize_t written) {
    if (written >= 0) {
        tap->set_down = false;
        return VERDICT_PASSED;
    }
    switch (errno) {
    case EAGAIN:
    case ENOBUFS:
    case ENOMEM:
        return VERDICT_NO_BUFFER;
    case EIO:
        tap->set_down = true;
        return VERDICT_DOWN;
    case EBADFD:
        tap->gone = true;
        return VERDICT_DOWN;
    default:
        return VERDICT_FAILED;
    }
}

static enum verdict tap_send_one(struct tap *tap, const struct frame *frame) {
    struct iovec parts[1 + FRAME_TAGGED_PARTS];
    struct virtio_net_hdr header;
    uint8_t tag[POLICY_TAG];
    unsigned n;
    ssize_t written;

    if (frame->len < POLICY_ETHER) {
        return VERDICT_RUNT;
    }
    offload_to_header(frame, &header);
    frame_tag_header(frame, &header);
    parts[0] = (struct iovec){.iov_base = &header, .iov_len = HEADER};
    n = 1 + frame_tagged_parts(frame, tag, parts + 1);
    do {
        written = writev(tap->fd, parts, (int)n);
    } while (written < 0 && errno == EINTR);
    return tap_verdict(tap, written);
}

static void tap_send(struct endpoint *endpoint, struct frame *const *frames, unsigned n, struct counter *counters) {
    struct tap *tap = tap_of(endpoint);

    for (unsigned i = 0; i < n; i++) {
        counter_add(counters, tap->gone ? VERDICT_DOWN : tap_send_one(tap, frames[i]), 1, frames[i]->len);
    }
}

static void tap_flush(struct endpoint *endpoint) {
    (void)endpoint; /* writev(2) has told the kernel */
}

static int tap_arm(struct endpoint *endpoint, struct pollfd *fds, bool want_frames, bool want_room) {
    struct tap *tap = tap_of(endpoint);

    (void)want_room; /* there always is */
    if (tap->gone) {
        return 0;
    }
    fds[0] = (struct pollfd){.fd = tap->fd, .events = want_frames ? POLLIN : 0};
    return 1;
}

static void tap_wake(struct endpoint *endpoint, const struct pollfd *fds, unsigned n) {
    if (n != 0 && (fds[0].revents & (POLLERR | POLLHUP | POLLNVAL)) != 0) {
        tap_of(endpoint)->gone = true;
    }
}

static bool tap_up(struct endpoint *endpoint) {
    const struct tap *tap = tap_of(endpoint);

    return !__atomic_load_n(&tap->gone, __ATOMIC_RELAXED) && !__atomic_load_n(&tap->set_down, __ATOMIC_RELAXED);
}

static void tap_close(struct endpoint *endpoint) {
    struct tap *tap = tap_of(endpoint);

    if (tap->fd >= 0) {
        close(tap->fd);
    }
    if (tap->buffers != NULL) {
        munmap(tap->buffers, FRAME_BATCH * STRIDE);
    }
    free(tap);
}

static const struct endpoint_ops tap_ops = {
    .receive = tap_receive,
    .release = tap_release,
    .room = tap_room,
    .send = tap_send,
    .flush = tap_flush,
    .arm = tap_arm,
    .wake = tap_wake,
    .up = tap_up,
    .close = tap_close,
};

/* Is it what we can speak with? Returns 0, or -1 with errno. */
static int tap_check(int fd) {
    struct ifreq request;
    int header = HEADER;

    memset(&request, 0, sizeof(request));
    if (ioctl(fd, TUNGETIFF, &request) != 0) {
        return -1;
    }
    if ((request.ifr_flags & IFF_TAP) == 0 || (request.ifr_flags & IFF_NO_PI) == 0 ||
        (request.ifr_flags & IFF_VNET_HDR) == 0) {
        errno = EINVAL;
        return -1;
    }
    return ioctl(fd, TUNSETVNETHDRSZ, &header);
}

static int tap_set_up(struct tap *tap, int fd) {
    int flags;

    tap->fd = fcntl(fd, F_DUPFD_CLOEXEC, 0);
    if (tap->fd < 0 || tap_check(tap->fd) != 0) {
        return -1;
    }
    flags = fcntl(tap->fd, F_GETFL);
    if (flags < 0 || fcntl(tap->fd, F_SETFL, flags | O_NONBLOCK) != 0) {
        return -1;
    }
    tap->buffers = mmap(NULL, FRAME_BATCH * STRIDE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (tap->buffers == MAP_FAILED) {
        tap->buffers = NULL;
        return -1;
    }
    return 0;
}

struct endpoint *tap_open(int fd, enum direction from) {
    struct tap *tap = calloc(1, sizeof(*tap));
    int failure;

    if (tap == NULL) {
        return NULL;
    }
    tap->endpoint.ops = &tap_ops;
    tap->endpoint.from = from;
    if (tap_set_up(tap, fd) != 0) {
        failure = errno;
        tap_close(&tap->endpoint);
        errno = failure;
        return NULL;
    }
    return &tap->endpoint;
}
