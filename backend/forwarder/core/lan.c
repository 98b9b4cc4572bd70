/* The guest LAN.
 *
 * Theory of operation. After the idea of US patent 7,111,303: a table that the host provisions leads from a datagram's
 * destination IP address to the input buffer of the virtual NIC that owns it, and there the datagram is placed, once.
 * Nothing is learnt, nothing is flooded: a frame goes to the one owner of the address that it names, or to nobody.
 * That holds for address resolution, too: an ARP request and a neighbour solicitation, broadcast and multicast though
 * they are, go only to the owner of the address that they ask for.
 *
 * A guest speaks for itself alone. Source MAC and source IP must be the table's for the port that a frame comes from;
 * so must what ARP and neighbour advertisements claim, or claim to be about to use. Guests are no routers to each
 * other: router advertisements and redirects are refused. The datagrams of these protocols count only with a hop limit
 * of 255 (RFC 4861, 6.1 and 8.1), so one with this hop limit that hides what it is behind extension headers (RFC 7113)
 * is refused likewise.
 *
 * Ports take turns. A batch is read in passes: the first reads headers and has the table's slots fetched, the second
 * looks them up, the third sends each port its share. The memory of the slots is larger than the first-level cache;
 * the passes hide what it takes. A receiver without room loses its own frames and holds up nobody.
 */
#include "lan.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

/* As in path.c: under load a nap gathers a batch. */
#define NAP_NS 40000
#define NAP_FRAMES 4
#define SLEEP_MS 250
#define LOOK_FRAMES 4096 /* after so many there is a look at control traffic */

#define IPV4 0x0800 /* IANA, IEEE 802 Numbers */
#define ARP 0x0806
#define IPV6 0x86dd

#define IPV4_HEADER 20 /* RFC 791, 3.1 */
#define IPV6_HEADER 40 /* RFC 8200, 3 */
#define ARP_MESSAGE 28 /* RFC 826, for Ethernet and IPv4 */
#define ND_MESSAGE 24  /* RFC 4861, 4.3 and 4.4: up to and with the target address */

#define ICMPV6 58
#define ROUTER_ADVERTISEMENT 134 /* RFC 4861, 4.2 to 4.5 */
#define NEIGHBOUR_SOLICITATION 135
#define NEIGHBOUR_ADVERTISEMENT 136
#define REDIRECT 137

static const uint8_t broadcast[6] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff};

static uint64_t clock_ns(void) {
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000U + (uint64_t)now.tv_nsec;
}

/* `at` is layer 3, `have` how many of its bytes can be read, `len` how many the frame has. */
static enum verdict read_ipv4(struct lan_look *look, const uint8_t *at, uint32_t have, uint32_t len) {
    uint32_t header;

    if (have < IPV4_HEADER) {
        return VERDICT_RUNT;
    }
    header = (at[0] & 15U) * 4;
    if (at[0] >> 4 != 4 || header < IPV4_HEADER || policy_be16(at + 2) < header || policy_be16(at + 2) > len) {
        return VERDICT_RUNT;
    }
    look->source = table_ipv4(at + 12);
    look->destination = table_ipv4(at + 16);
    return VERDICT_PASSED;
}

static enum verdict read_arp(struct lan_look *look, const uint8_t *at, uint32_t have) {
    /* Ethernet, IPv4, their lengths; then the operation, of which there are request (1) and reply (2). */
    static const uint8_t kind[7] = {0, 1, 8, 0, 6, 4, 0};

    if (have < ARP_MESSAGE) {
        return VERDICT_RUNT;
    }
    if (memcmp(at, kind, sizeof(kind)) != 0 || (at[7] != 1 && at[7] != 2)) {
        return VERDICT_ETHERTYPE;
    }
    if (!policy_same_mac(at + 8, look->head + 6)) {
        return VERDICT_SPOOFED;
    }
    look->source = table_ipv4(at + 14);
    look->destination = table_ipv4(at + 24);
    if (look->source.low == 0) {
        look->source = look->destination; /* a probe, which is a claim (RFC 5227, 2.1.1) */
    }
    look->asks = at[7] == 1 && policy_same_mac(look->head, broadcast);
    return VERDICT_PASSED;
}

static bool is_extension(uint8_t next_header) {
    /* IANA, IPv6 Extension Header Types; encrypted payload (50) is not read by anybody without its key. */
    return next_header == 0 || next_header == 43 || next_header == 44 || next_header == 51 || next_header == 60 ||
           next_header == 135 || next_header == 139 || next_header == 140 || next_header >= 253;
}

/* Is the datagram sent to the solicited-node group of its target, by the group's MAC (RFC 4291, 2.7.1; RFC 2464, 7)? */
static bool to_solicited_node(const uint8_t *mac, const uint8_t *destination, const uint8_t *target) {
    static const uint8_t prefix[13] = {0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff};

    return memcmp(destination, prefix, sizeof(prefix)) == 0 && memcmp(destination + 13, target + 13, 3) == 0 &&
           mac[0] == 0x33 && mac[1] == 0x33 && memcmp(mac + 2, destination + 12, 4) == 0;
}

/* What a datagram with a hop limit of 255 may be to its receiver: neighbour discovery. */
static enum verdict read_nd(struct lan_look *look, const uint8_t *at, uint32_t have) {
    const uint8_t *message = at + IPV6_HEADER;
    uint8_t type;

    if (is_extension(at[6])) {
        return VERDICT_SPOOFED;
    }
    if (at[6] != ICMPV6) {
        return VERDICT_PASSED;
    }
    if (have < IPV6_HEADER + 1) {
        return VERDICT_RUNT;
    }
    type = message[0];
    if (type == ROUTER_ADVERTISEMENT || type == REDIRECT) {
        return VERDICT_SPOOFED;
    }
    if (type != NEIGHBOUR_SOLICITATION && type != NEIGHBOUR_ADVERTISEMENT) {
        return VERDICT_PASSED;
    }
    if (have < IPV6_HEADER + ND_MESSAGE || policy_be16(at + 4) < ND_MESSAGE) {
        return VERDICT_RUNT;
    }
    if (type == NEIGHBOUR_ADVERTISEMENT) {
        look->claims = true;
    } else if (to_solicited_node(look->head, at + 24, message + 8)) {
        look->destination = table_ipv6(message + 8);
        if ((look->source.high | look->source.low) == 0) {
            look->source = look->destination; /* so is duplicate address detection (RFC 4862, 5.4.2) */
        }
        look->asks = true;
    }
    return VERDICT_PASSED;
}

static enum verdict read_ipv6(struct lan_look *look, const uint8_t *at, uint32_t have, uint32_t len) {
    if (have < IPV6_HEADER || at[0] >> 4 != 6 || policy_be16(at + 4) > len - IPV6_HEADER) {
        return VERDICT_RUNT;
    }
    look->source = table_ipv6(at + 8);
    look->destination = table_ipv6(at + 24);
    return at[7] == 255 ? read_nd(look, at, have) : VERDICT_PASSED;
}

/* First pass: may such a frame pass, and between which addresses? */
static enum verdict read_frame(const struct lan *lan, struct lan_look *look, const struct frame *frame) {
    uint32_t have = (uint32_t)frame->part[0].iov_len;
    const uint8_t *at;
    uint32_t len;

    look->head = frame->part[0].iov_base;
    look->asks = look->claims = false;
    if (frame->parts == 0 || have < POLICY_ETHER || frame->len < have) {
        return VERDICT_RUNT;
    }
    if (frame->tag_tpid != 0) {
        return VERDICT_TAGS;
    }
    if (frame_wire_len(frame) > lan->max_frame) {
        return VERDICT_OVERSIZED;
    }
    look->group = (look->head[0] & 1) != 0;
    at = look->head + POLICY_ETHER;
    have -= POLICY_ETHER;
    len = frame->len - POLICY_ETHER;
    switch (policy_be16(look->head + 12)) {
    case IPV4:
        return read_ipv4(look, at, have, len);
    case IPV6:
        return read_ipv6(look, at, have, len);
    case ARP:
        return read_arp(look, at, have);
    default:
        return policy_is_tag(policy_be16(look->head + 12)) ? VERDICT_TAGS : VERDICT_ETHERTYPE;
    }
}

static void read_batch(struct lan *lan, unsigned n) {
    for (unsigned i = 0; i < n; i++) {
        __builtin_prefetch(lan->frames[i].part[0].iov_base);
    }
    for (unsigned i = 0; i < n; i++) {
        struct lan_look *look = &lan->looks[i];

        look->verdict = read_frame(lan, look, &lan->frames[i]);
        if (look->verdict == VERDICT_PASSED) {
            look->source_place = table_place(lan->table, &look->source);
            look->destination_place = table_place(lan->table, &look->destination);
            __builtin_prefetch(look->source_place);
            __builtin_prefetch(look->destination_place);
        }
    }
}

static bool owns(const struct entry *entry, unsigned port, const uint8_t *mac) {
    return entry != NULL && entry->port == port && policy_same_mac(entry->mac, mac);
}

static bool claim_is_true(const struct lan *lan, unsigned port, const uint8_t *head) {
    const struct address target = table_ipv6(head + POLICY_ETHER + IPV6_HEADER + 8);

    return owns(table_find(table_place(lan->table, &target), &target), port, head + 6);
}

static bool take(const struct limit *limit, uint64_t *full_at, uint64_t now_ns, uint32_t frames) {
    uint64_t next = limit->cost_ns == 0 ? now_ns : limit_take(limit, *full_at, now_ns, frames);

    if (next != 0) {
        *full_at = next;
    }
    return next != 0;
}

/* Second pass: whose is it? On VERDICT_PASSED, `*to` is the port that gets the frame. */
static enum verdict judge(struct lan *lan, unsigned from, const struct frame *frame, const struct lan_look *look,
                          uint64_t now_ns, unsigned *to) {
    struct lan_port *port = &lan->port[from];
    const struct entry *owner;

    if (look->verdict != VERDICT_PASSED) {
        return look->verdict;
    }
    if (look->group && !look->asks) {
        return VERDICT_DESTINATION;
    }
    if (!owns(table_find(look->source_place, &look->source), from, look->head + 6) ||
        (look->claims && !claim_is_true(lan, from, look->head))) {
        return VERDICT_SPOOFED;
    }
    owner = table_find(look->destination_place, &look->destination);
    if (owner == NULL || owner->port == from || (!look->group && !policy_same_mac(owner->mac, look->head))) {
        return VERDICT_DESTINATION;
    }
    if (look->group && !take(&port->group_rate, &port->full_at[1], now_ns, 1)) {
        return VERDICT_GROUP_RATE;
    }
    if (!take(&port->rate, &port->full_at[0], now_ns, frame_segments(frame))) {
        return VERDICT_RATE;
    }
    *to = owner->port;
    return VERDICT_PASSED;
}

/* One batch from one port. Returns how many frames it had, and adds to `touched` the ports that are to be flushed. */
static unsigned move(struct lan *lan, unsigned from, uint64_t now_ns, uint64_t *touched) {
    struct lan_port *port = &lan->port[from];
    struct endpoint *source = port->endpoint;
    unsigned n = source->ops->receive(source, lan->frames, FRAME_BATCH);
    unsigned count[LAN_PORTS];
    uint64_t receivers = 0;

    if (n != 0) {
        read_batch(lan, n);
    }
    for (unsigned i = 0; i < n; i++) {
        struct frame *frame = &lan->frames[i];
        unsigned to = 0;
        enum verdict verdict = judge(lan, from, frame, &lan->looks[i], now_ns, &to);

        if (verdict != VERDICT_PASSED) {
            counter_add(port->counters, verdict, 1, frame->len);
            continue;
        }
        if ((receivers >> to & 1) == 0) {
            receivers |= (uint64_t)1 << to;
            count[to] = 0;
        }
        lan->to[to][count[to]++] = frame;
    }
    for (uint64_t left = receivers; left != 0; left &= left - 1) {
        unsigned to = (unsigned)__builtin_ctzll(left);
        struct endpoint *sink = lan->port[to].endpoint;

        sink->ops->send(sink, lan->to[to], count[to], port->counters);
    }
    /* Also after a receive() that gave nothing: it may have refused frames and hold their buffers. */
    source->ops->release(source);
    *touched |= receivers | (n != 0 ? (uint64_t)1 << from : 0);
    return n;
}

static uint64_t all_ports(const struct lan *lan) {
    return lan->ports == 64 ? UINT64_MAX : ((uint64_t)1 << lan->ports) - 1;
}

unsigned lan_round(struct lan *lan, uint64_t now_ns) {
    uint64_t touched = 0;
    unsigned moved = 0;

    for (unsigned i = 0, from = lan->first; i < lan->ports; i++) {
        moved += move(lan, from, now_ns, &touched);
        from = from + 1 < lan->ports ? from + 1 : 0;
    }
    lan->first = lan->first + 1 < lan->ports ? lan->first + 1 : 0;
    if (moved == 0) {
        /* Before we sleep, also the buffers of frames that an endpoint refused itself go back. */
        touched = all_ports(lan);
    }
    for (; touched != 0; touched &= touched - 1) {
        struct endpoint *endpoint = lan->port[__builtin_ctzll(touched)].endpoint;

        endpoint->ops->flush(endpoint);
    }
    return moved;
}

/* The rest is control: what happens between rounds. */

/* With the lock held, by the data path or when there is none. */
static void adopt(struct lan *lan) {
    if (lan->next != NULL) {
        table_free(lan->table);
        lan->table = lan->next;
        lan->next = NULL;
        __atomic_store_n(&lan->next_waits, false, __ATOMIC_RELAXED);
        pthread_cond_broadcast(&lan->changed);
    }
}

static void signal_fd(int fd) {
    const uint64_t one = 1;

    /* It fails only if the counter is at its limit, and then it is readable. */
    (void)!write(fd, &one, sizeof(one));
}

void lan_provision(struct lan *lan, struct table *table) {
    pthread_mutex_lock(&lan->lock);
    table_free(lan->next);
    lan->next = table;
    __atomic_store_n(&lan->next_waits, true, __ATOMIC_RELAXED);
    if (lan->running) {
        signal_fd(lan->wake_fd);
    }
    while (lan->running && lan->next == table) {
        pthread_cond_wait(&lan->changed, &lan->lock);
    }
    if (!lan->running) {
        adopt(lan);
    }
    pthread_mutex_unlock(&lan->lock);
}

static int sleep_or_stop(struct lan *lan, uint64_t want_frames, int timeout_ms) {
    struct endpoint *endpoints[LAN_PORTS];
    uint64_t count;
    int woken;

    for (unsigned i = 0; i < lan->ports; i++) {
        endpoints[i] = lan->port[i].endpoint;
    }
    woken = loop_wait_for(endpoints, lan->ports, want_frames, 0, lan->wake_fd, timeout_ms);
    if (woken > 0) {
        (void)!read(lan->wake_fd, &count, sizeof(count));
    }
    return woken < 0 ? -1 : 0;
}

static int run(struct lan *lan) {
    static const struct timespec nap = {.tv_nsec = NAP_NS};
    unsigned since_wait = 0; /* frames */
    unsigned since_look = 0;

    while (!__atomic_load_n(&lan->stopped, __ATOMIC_RELAXED)) {
        unsigned moved;
        int result = 0;

        if (__atomic_load_n(&lan->next_waits, __ATOMIC_RELAXED)) {
            pthread_mutex_lock(&lan->lock);
            adopt(lan);
            pthread_mutex_unlock(&lan->lock);
        }
        moved = lan_round(lan, clock_ns());
        since_wait += moved;
        since_look += moved;
        if (moved == 0 && since_wait >= NAP_FRAMES) {
            since_wait = 0;
            nanosleep(&nap, NULL);
        } else if (moved == 0) {
            since_wait = since_look = 0;
            result = sleep_or_stop(lan, all_ports(lan), SLEEP_MS);
        } else if (since_look >= LOOK_FRAMES) {
            since_look = 0;
            result = sleep_or_stop(lan, 0, 0);
        }
        if (result != 0) {
            return -1;
        }
    }
    return 0;
}

int lan_run(struct lan *lan) {
    int result;

    pthread_mutex_lock(&lan->lock);
    if (lan->running) {
        pthread_mutex_unlock(&lan->lock);
        errno = EBUSY;
        return -1;
    }
    lan->running = true;
    pthread_mutex_unlock(&lan->lock);
    /* The default slack of 50 us would double the nap (prctl(2), PR_SET_TIMERSLACK). */
    prctl(PR_SET_TIMERSLACK, 1UL, 0UL, 0UL, 0UL);
    result = run(lan);
    pthread_mutex_lock(&lan->lock);
    lan->running = false;
    pthread_cond_broadcast(&lan->changed);
    pthread_mutex_unlock(&lan->lock);
    return result;
}

void lan_stop(struct lan *lan) {
    __atomic_store_n(&lan->stopped, true, __ATOMIC_RELAXED);
    signal_fd(lan->wake_fd);
}

struct lan *lan_new(uint32_t max_frame) {
    struct lan *lan = calloc(1, sizeof(*lan));
    size_t which;

    if (lan == NULL) {
        return NULL;
    }
    lan->max_frame = max_frame;
    lan->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    lan->table = table_build(NULL, 0, &which);
    if (lan->wake_fd < 0 || lan->table == NULL) {
        lan_free(lan);
        return NULL;
    }
    pthread_mutex_init(&lan->lock, NULL);
    pthread_cond_init(&lan->changed, NULL);
    return lan;
}

void lan_add(struct lan *lan, struct endpoint *endpoint, const struct limit *rate, const struct limit *group_rate) {
    struct lan_port *port = &lan->port[lan->ports++];

    port->endpoint = endpoint;
    port->rate = *rate;
    port->group_rate = *group_rate;
    endpoint->counters = port->counters;
}

void lan_free(struct lan *lan) {
    if (lan->wake_fd >= 0) {
        close(lan->wake_fd);
    }
    table_free(lan->table);
    table_free(lan->next);
    free(lan);
}
