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
 * other: router advertisements and redirects are refused (lan_frame.c).
 *
 * Ports take turns. A batch is read in passes: the first reads headers and has the table's slots fetched, the second
 * looks them up, the third sends each port its share. The memory of the slots is larger than the first-level cache;
 * the passes hide what it takes. A receiver without room loses its own frames and holds up nobody.
 */
#include "lan.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "../../forwarder/core/clock.h"

#define LOOK_FRAMES 4096 /* after so many there is a look at control traffic */

static bool owns(const struct entry *entry, unsigned port, const uint8_t *mac) {
    return entry != NULL && entry->port == port && policy_same_mac(entry->mac, mac);
}

static bool claim_is_true(const struct lan *lan, unsigned port, const uint8_t *head) {
    const struct address target = lan_frame_claimed(head);

    return owns(table_find(table_place(lan->table, &target), &target), port, head + 6);
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
    if (look->group && !limit_spend(&port->group_rate, &port->full_at[1], now_ns, 1)) {
        return VERDICT_GROUP_RATE;
    }
    if (!limit_spend(&port->rate, &port->full_at[0], now_ns, frame_segments(frame))) {
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
        lan_frame_read(lan->looks, lan->frames, n, lan->max_frame, lan->table);
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
        if (moved == 0 && since_wait >= LOOP_NAP_FRAMES) {
            since_wait = 0;
            loop_nap();
        } else if (moved == 0) {
            since_wait = since_look = 0;
            result = sleep_or_stop(lan, all_ports(lan), LOOP_SLEEP_MS);
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
    loop_begin();
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
