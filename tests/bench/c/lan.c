/* How fast is the guest LAN in memory? Prints one line of JSON; every figure is in frames per second.
 *
 *     lan [seconds]
 *
 * 8 virtual NICs with 125 addresses each. Guests send 64-byte frames from their addresses to all the others', in random
 * order. Everything is the real thing: the source check, the lookups, the counters, the one copy into the input buffer
 * of the destination. Figures:
 *
 *   lan                one core does it all: writes every frame into a sender's buffer, moves it, and reads its address
 * at the receiver, which is less than what the LAN alone could do lan_data_path      the time inside lan_round() alone,
 * in the same run datagram           the peer: one unix datagram socket, one send(2) and one recv(2) for each frame
 *   stream_writev_64   the peer: one unix stream socket, 64 frames with each writev(2) and readv(2)
 *
 * The peers, too, run on one core; they look nothing up.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include "../../../backend/lan/core/lan.h"
#include "../../unit/forwarder/c/memory.h"

#define PORTS 8
#define ADDRESSES 1000
#define FRAME 64
#define SLOTS 256
#define PLAN 65536  /* frames, prepared; a power of two */
#define ROUNDS 1000 /* between two looks at the clock */

static uint8_t plan[PLAN][FRAME];
static unsigned plan_port[PLAN];

static void check(int ok, const char *what) {
    if (!ok) {
        fprintf(stderr, "lan: %s: %s\n", what, strerror(errno));
        exit(1);
    }
}

static uint64_t now_ns(void) {
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000U + (uint64_t)now.tv_nsec;
}

/* Address `i` is 10.0.x.y, that of the virtual NIC i % PORTS. */
static void put_address(uint8_t *at, unsigned i) {
    const uint8_t address[4] = {10, 0, (uint8_t)(i >> 8), (uint8_t)i};

    memcpy(at, address, sizeof(address));
}

static void put_mac(uint8_t *at, unsigned i) {
    const uint8_t mac[6] = {2, 0, 0, 0, 0, (uint8_t)(i % PORTS)};

    memcpy(at, mac, sizeof(mac));
}

static void prepare_plan(void) {
    uint32_t random = 1;

    for (unsigned i = 0; i < PLAN; i++) {
        unsigned from;
        unsigned to;

        random = random * 1664525U + 1013904223U;
        from = (random >> 8) % ADDRESSES;
        do {
            random = random * 1664525U + 1013904223U;
            to = (random >> 8) % ADDRESSES;
        } while (to % PORTS == from % PORTS);
        put_mac(plan[i], to);
        put_mac(plan[i] + 6, from);
        plan[i][12] = 0x08;
        plan[i][14] = 0x45;
        plan[i][17] = FRAME - 14;
        plan[i][22] = 64;
        plan[i][23] = 17;
        put_address(plan[i] + 26, from);
        put_address(plan[i] + 30, to);
        plan_port[i] = from % PORTS;
    }
}

static struct table *make_table(void) {
    static struct entry entries[ADDRESSES];
    struct table *table;
    size_t which;

    for (unsigned i = 0; i < ADDRESSES; i++) {
        uint8_t bytes[4];
        struct address address;

        put_address(bytes, i);
        address = table_ipv4(bytes);
        entries[i] = (struct entry){.low = address.low, .family = address.family, .port = (uint8_t)(i % PORTS)};
        put_mac(entries[i].mac, i);
    }
    table = table_build(entries, ADDRESSES, &which);
    check(table != NULL, "build the table");
    return table;
}

/* The receiver reads what it got: the destination address, which must be its own. */
static uint64_t drain(struct endpoint *const *endpoints) {
    uint64_t frames = 0;

    for (unsigned port = 0; port < PORTS; port++) {
        const struct memory_slot *slot;

        while ((slot = memory_peek(endpoints[port])) != NULL) {
            if (slot->len != FRAME || slot->bytes[33] % PORTS != port) {
                fprintf(stderr, "lan: port %u got a frame that is not its own\n", port);
                exit(1);
            }
            memory_take(endpoints[port]);
            frames++;
        }
        memory_return(endpoints[port]);
    }
    return frames;
}

static void fill(struct endpoint *const *endpoints, unsigned *next) {
    /* Half a batch for each port, on average. */
    for (unsigned i = 0; i < PORTS * FRAME_BATCH / 2; i++) {
        const uint8_t *frame = plan[*next];
        struct endpoint *endpoint = endpoints[plan_port[*next]];
        struct memory_slot *slot = memory_next(endpoint);

        if (slot != NULL) {
            memcpy(slot->bytes, frame, FRAME);
            slot->len = FRAME;
            slot->tag_tpid = 0;
            slot->offload = (struct offload){0};
            memory_put(endpoint);
        }
        *next = (*next + 1) % PLAN;
    }
    for (unsigned port = 0; port < PORTS; port++) {
        memory_publish(endpoints[port]);
    }
}

static void bench_lan(double seconds) {
    const struct limit none = {0, 0};
    struct endpoint *endpoints[PORTS];
    struct lan *lan = lan_new(FRAME_MAX);
    uint64_t start;
    uint64_t spent;
    uint64_t inside = 0;
    uint64_t frames = 0;
    unsigned next = 0;

    check(lan != NULL, "make a LAN");
    for (unsigned port = 0; port < PORTS; port++) {
        endpoints[port] = memory_open(SLOTS, 1514, FROM_VM);
        check(endpoints[port] != NULL, "make an endpoint");
        lan_add(lan, endpoints[port], &none, &none);
    }
    lan_provision(lan, make_table());
    start = now_ns();
    do {
        for (unsigned i = 0; i < ROUNDS; i++) {
            uint64_t before;

            fill(endpoints, &next);
            before = now_ns();
            lan_round(lan, before);
            inside += now_ns() - before;
            frames += drain(endpoints);
        }
        spent = now_ns() - start;
    } while ((double)spent < seconds * 1e9);
    for (unsigned port = 0; port < PORTS; port++) {
        for (int verdict = VERDICT_PASSED + 1; verdict < VERDICTS; verdict++) {
            check(lan->port[port].counters[verdict].frames == 0, "a frame was dropped");
        }
    }
    printf("\"lan\": %.0f, \"lan_data_path\": %.0f", (double)frames * 1e9 / (double)spent,
           (double)frames * 1e9 / (double)inside);
    lan_free(lan);
    for (unsigned port = 0; port < PORTS; port++) {
        endpoints[port]->ops->close(endpoints[port]);
    }
}

static void bench_datagram(double seconds) {
    uint8_t got[FRAME];
    uint64_t frames = 0;
    uint64_t start;
    uint64_t spent;
    int pair[2];

    check(socketpair(AF_UNIX, SOCK_DGRAM, 0, pair) == 0, "socketpair");
    start = now_ns();
    do {
        for (unsigned i = 0; i < ROUNDS; i++, frames++) {
            check(send(pair[0], plan[frames % PLAN], FRAME, 0) == FRAME, "send");
            check(recv(pair[1], got, FRAME, 0) == FRAME, "recv");
        }
        spent = now_ns() - start;
    } while ((double)spent < seconds * 1e9);
    printf(", \"datagram\": %.0f", (double)frames * 1e9 / (double)spent);
    close(pair[0]);
    close(pair[1]);
}

static void bench_stream(double seconds) {
    static uint8_t got[64][FRAME];
    struct iovec from[64];
    struct iovec to[64];
    uint64_t frames = 0;
    uint64_t start;
    uint64_t spent;
    int pair[2];

    check(socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0, "socketpair");
    start = now_ns();
    do {
        for (unsigned i = 0; i < ROUNDS / 10; i++, frames += 64) {
            for (unsigned j = 0; j < 64; j++) {
                from[j] = (struct iovec){.iov_base = plan[(frames + j) % PLAN], .iov_len = FRAME};
                to[j] = (struct iovec){.iov_base = got[j], .iov_len = FRAME};
            }
            check(writev(pair[0], from, 64) == (ssize_t)sizeof(got), "writev");
            check(readv(pair[1], to, 64) == (ssize_t)sizeof(got), "readv");
        }
        spent = now_ns() - start;
    } while ((double)spent < seconds * 1e9);
    printf(", \"stream_writev_64\": %.0f", (double)frames * 1e9 / (double)spent);
    close(pair[0]);
    close(pair[1]);
}

int main(int argc, char **argv) {
    double seconds = argc > 1 ? atof(argv[1]) : 2.0;

    prepare_plan();
    printf("{");
    bench_lan(seconds);
    bench_datagram(seconds);
    bench_stream(seconds);
    printf("}\n");
    return 0;
}
