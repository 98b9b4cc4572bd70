#include "ring.h"

#include <errno.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <linux/virtio_net.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>

#include "clock.h"
#include "frame_tag.h"
#include "offload.h"
#include "ring_sockets.h"

/* linux/if_vlan.h of the kernel: what the TPID is when the ring does not say. */
#define DEFAULT_TPID ETH_P_8021Q
#define HEADER_BYTES ((uint32_t)sizeof(struct virtio_net_hdr))
#define BLOCK (64U * RING_SLOT)
#define SEND_PARTS (FRAME_TAGGED_PARTS + 1) /* with the virtio header */
#define RETRY_NS 20000                      /* how long a batch waits for a transmit queue that is full */
#define RETURN_NS 100000000                 /* between looks for an interface that vanished */

struct ring {
    struct endpoint endpoint;
    struct ring_sockets sockets;
    bool up;
    bool look;           /* the interface went down, and may have vanished */
    uint64_t look_at_ns; /* when to look for it next */
    uint8_t *slots;
    uint32_t next;   /* the slot that is filled next */
    uint32_t taken;  /* slots given out since the last release() */
    uint8_t *large;  /* FRAME_BATCH buffers of LARGE_BYTES, for what does not fit a slot */
    uint32_t larges; /* of them given out */
    struct mmsghdr message[FRAME_BATCH];
    struct iovec part[FRAME_BATCH][SEND_PARTS];
    struct virtio_net_hdr header[FRAME_BATCH];
    uint8_t tag[FRAME_BATCH][POLICY_TAG];
};

#define LARGE_BYTES (FRAME_MAX + 64)

static struct ring *ring_of(struct endpoint *endpoint) {
    return (struct ring *)endpoint; /* its first member */
}

/* After it went down: is it up again, or another one of that name there? The kernel tells neither. Returns false if it
 * is another one: to tie sockets to that takes privileges, and a filter, that this process no longer has.
 */
static bool ring_look(struct ring *ring) {
    uint64_t now = clock_ns();
    int index;

    if (now < ring->look_at_ns) {
        return true;
    }
    ring->look_at_ns = now + RETURN_NS;
    index = ring_sockets_index(&ring->sockets);
    if (index == ring->sockets.index) {
        ring->up = ring_sockets_up(&ring->sockets);
        ring->look = !ring->up;
    }
    return index == ring->sockets.index || index < 0;
}

/* Map the slots. */
static int ring_map(struct ring *ring, const char **step) {
    struct tpacket_req request = {
        .tp_block_size = BLOCK,
        .tp_block_nr = RING_SLOTS * RING_SLOT / BLOCK,
        .tp_frame_size = RING_SLOT,
        .tp_frame_nr = RING_SLOTS,
    };

    *step = "cannot make the ring of a packet socket (PACKET_RX_RING)";
    if (setsockopt(ring->sockets.receiver, SOL_PACKET, PACKET_RX_RING, &request, sizeof request) != 0) {
        return -1;
    }
    ring->slots = mmap(NULL, (size_t)RING_SLOTS * RING_SLOT, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE,
                       ring->sockets.receiver, 0);
    ring->large = malloc((size_t)FRAME_BATCH * LARGE_BYTES);
    return ring->slots == MAP_FAILED || ring->large == NULL ? -1 : 0;
}

static void ring_close(struct endpoint *endpoint) {
    struct ring *ring = ring_of(endpoint);

    if (ring->slots != MAP_FAILED) {
        munmap(ring->slots, (size_t)RING_SLOTS * RING_SLOT);
    }
    ring_sockets_close(&ring->sockets);
    free(ring->large);
    free(ring);
}

static struct tpacket2_hdr *slot_at(const struct ring *ring, uint32_t index) {
    return (struct tpacket2_hdr *)(void *)(ring->slots + (size_t)index * RING_SLOT);
}

static void take_offload(struct frame *frame, const uint8_t *at) {
    struct virtio_net_hdr header;

    memcpy(&header, at, sizeof header);
    offload_from_kernel(frame, &header);
}

/* The frame that did not fit its slot, from the socket's queue. Returns false if it is not there. */
static bool receive_large(struct ring *ring, struct frame *frame) {
    uint8_t *buffer = ring->large + (size_t)ring->larges * LARGE_BYTES;
    ssize_t got = recv(ring->sockets.receiver, buffer, LARGE_BYTES, MSG_DONTWAIT | MSG_TRUNC);

    if (got < (ssize_t)HEADER_BYTES + POLICY_ETHER || got > LARGE_BYTES) {
        return false;
    }
    frame->len = (uint32_t)got - HEADER_BYTES;
    frame->part[0] = (struct iovec){.iov_base = buffer + HEADER_BYTES, .iov_len = frame->len};
    take_offload(frame, buffer);
    ring->larges++;
    return true;
}

static unsigned ring_receive(struct endpoint *endpoint, struct frame *frames, unsigned max) {
    struct ring *ring = ring_of(endpoint);
    unsigned n = 0;

    ring->larges = 0;
    while (n < max && ring->taken < RING_SLOTS) {
        struct tpacket2_hdr *slot = slot_at(ring, ring->next);
        uint32_t status = __atomic_load_n(&slot->tp_status, __ATOMIC_ACQUIRE);
        struct frame *frame = &frames[n];
        uint8_t *bytes = (uint8_t *)slot + slot->tp_mac;

        if (!(status & TP_STATUS_USER)) {
            break;
        }
        __builtin_prefetch(slot_at(ring, (ring->next + 2) % RING_SLOTS));
        ring->next = (ring->next + 1) % RING_SLOTS;
        ring->taken++;
        frame->parts = 1;
        frame->tag_tpid = 0;
        if (status & TP_STATUS_VLAN_VALID) {
            frame->tag_tci = slot->tp_vlan_tci;
            frame->tag_tpid = status & TP_STATUS_VLAN_TPID_VALID ? slot->tp_vlan_tpid : DEFAULT_TPID;
        }
        if (status & TP_STATUS_COPY) {
            if (!receive_large(ring, frame)) {
                counter_add(endpoint->counters, VERDICT_OVERSIZED, 1, slot->tp_len);
                continue;
            }
        } else if (slot->tp_snaplen < slot->tp_len) {
            /* Neither in the slot nor on the socket's queue, which was full. */
            counter_add(endpoint->counters, VERDICT_NO_BUFFER, 1, slot->tp_len);
            continue;
        } else {
            frame->len = slot->tp_snaplen;
            frame->part[0] = (struct iovec){.iov_base = bytes, .iov_len = slot->tp_snaplen};
            take_offload(frame, bytes - HEADER_BYTES);
        }
        if (status & TP_STATUS_LOSING) {
            struct tpacket_stats lost;
            socklen_t size = sizeof lost;

            /* Reading them clears them and the flag. */
            if (getsockopt(ring->sockets.receiver, SOL_PACKET, PACKET_STATISTICS, &lost, &size) == 0) {
                counter_add(endpoint->counters, VERDICT_NO_BUFFER, lost.tp_drops, 0);
            }
        }
        n++;
    }
    return n;
}

static void ring_release(struct endpoint *endpoint) {
    struct ring *ring = ring_of(endpoint);
    uint32_t index = (ring->next + RING_SLOTS - ring->taken) % RING_SLOTS;

    for (; ring->taken > 0; ring->taken--) {
        __atomic_store_n(&slot_at(ring, index)->tp_status, TP_STATUS_KERNEL, __ATOMIC_RELEASE);
        index = (index + 1) % RING_SLOTS;
    }
}

static unsigned ring_room(struct endpoint *endpoint) {
    (void)endpoint;
    return FRAME_BATCH;
}

/* The parts of a frame as they go to the kernel: header, and the tag where it was. Returns how many. */
static unsigned ring_gather(struct ring *ring, unsigned slot, const struct frame *frame) {
    struct iovec *part = ring->part[slot];
    struct virtio_net_hdr *header = &ring->header[slot];

    offload_to_header(frame, header);
    frame_tag_header(frame, header);
    part[0] = (struct iovec){.iov_base = header, .iov_len = HEADER_BYTES};
    return 1 + frame_tagged_parts(frame, ring->tag[slot], part + 1);
}

/* What a failed send means for the frame; VERDICT_PASSED: try again. */
static enum verdict send_verdict(struct ring *ring, int error) {
    switch (error) {
    case EINTR:
        return VERDICT_PASSED;
    case EAGAIN:
    case ENOBUFS:
        return VERDICT_NO_BUFFER;
    case ENETDOWN:
    case ENXIO:
    case ENODEV:
        ring->up = false;
        ring->look = true;
        return VERDICT_DOWN;
    case EMSGSIZE:
        return VERDICT_OVERSIZED;
    case EINVAL:
        return VERDICT_OFFLOAD;
    default:
        return VERDICT_FAILED;
    }
}

static void ring_send(struct endpoint *endpoint, struct frame *const *frames, unsigned n, struct counter *counters) {
    struct ring *ring = ring_of(endpoint);
    uint64_t give_up_ns = 0;
    unsigned done = 0;

    for (unsigned i = 0; i < n; i++) {
        ring->message[i].msg_hdr.msg_iov = ring->part[i];
        ring->message[i].msg_hdr.msg_iovlen = ring_gather(ring, i, frames[i]);
    }
    while (done < n) {
        bool gso = frames[done]->offload.gso_size != 0;
        unsigned run = 1;
        int sent;
        enum verdict verdict;

        while (done + run < n && (frames[done + run]->offload.gso_size != 0) == gso) {
            run++;
        }
        sent = sendmmsg(gso ? ring->sockets.gso_sender : ring->sockets.sender, ring->message + done, run, MSG_DONTWAIT);
        if (sent > 0) {
            uint64_t bytes = 0;

            for (int i = 0; i < sent; i++) {
                bytes += frames[done + (unsigned)i]->len;
            }
            counter_add(counters, VERDICT_PASSED, (uint64_t)sent, bytes);
            done += (unsigned)sent;
            ring->up = true;
            continue;
        }
        verdict = send_verdict(ring, errno);
        if (verdict == VERDICT_NO_BUFFER) {
            uint64_t now = clock_ns();

            /* The card's queue is full: it empties in microseconds, or not at all. */
            if (give_up_ns == 0) {
                give_up_ns = now + RETRY_NS;
            }
            if (now < give_up_ns) {
                continue;
            }
        }
        if (verdict != VERDICT_PASSED) {
            counter_add(counters, verdict, 1, frames[done]->len);
            done++;
        }
    }
}

static void ring_flush(struct endpoint *endpoint) {
    (void)endpoint;
}

static int ring_arm(struct endpoint *endpoint, struct pollfd *fds, bool want_frames, bool want_room) {
    struct ring *ring = ring_of(endpoint);

    (void)want_room;
    if (ring->look && !ring_look(ring)) {
        return ENDPOINT_LOST;
    }
    /* Errors are always told. */
    fds[0] = (struct pollfd){.fd = ring->sockets.receiver, .events = want_frames ? POLLIN : 0};
    return 1;
}

static void ring_wake(struct endpoint *endpoint, const struct pollfd *fds, unsigned n) {
    struct ring *ring = ring_of(endpoint);
    int error = 0;
    socklen_t size = sizeof error;

    if (n == 1 && fds[0].revents & POLLERR) {
        /* Reading it clears it. */
        getsockopt(ring->sockets.receiver, SOL_SOCKET, SO_ERROR, &error, &size);
        ring->up = false;
        ring->look = true;
    }
}

static bool ring_up(struct endpoint *endpoint) {
    const struct ring *ring = ring_of(endpoint);

    return ring->up;
}

static const struct endpoint_ops ring_ops = {
    .receive = ring_receive,
    .release = ring_release,
    .room = ring_room,
    .send = ring_send,
    .flush = ring_flush,
    .arm = ring_arm,
    .wake = ring_wake,
    .up = ring_up,
    .close = ring_close,
};

struct endpoint *ring_open(const char *interface, const uint8_t *mac, enum direction from, const char **step) {
    struct ring *ring = calloc(1, sizeof *ring);

    *step = "no memory for a packet ring";
    if (ring == NULL) {
        return NULL;
    }
    ring->endpoint = (struct endpoint){.ops = &ring_ops, .from = from};
    ring->sockets = (struct ring_sockets){.receiver = -1, .sender = -1, .gso_sender = -1};
    ring->slots = MAP_FAILED;
    ring->up = true;
    strncpy(ring->sockets.interface, interface, IFNAMSIZ - 1);
    if (mac != NULL) {
        ring->sockets.has_mac = true;
        memcpy(ring->sockets.mac, mac, ETH_ALEN);
    }
    if (ring_sockets_open(&ring->sockets, step) != 0 || ring_map(ring, step) != 0 ||
        ring_sockets_bind(&ring->sockets, step) != 0) {
        int error = errno;

        ring_close(&ring->endpoint);
        errno = error;
        return NULL;
    }
    return &ring->endpoint;
}
