/* Test traffic for the forwarder's benchmark: frames at a rate, or as fast as this machine makes them.
 *
 *   traffic send NETNS INTERFACE DESTINATION SOURCE SIZE RATE SECONDS CPU
 *   traffic latency FROM-NETNS INTERFACE TO-NETNS INTERFACE DESTINATION SOURCE SIZE RATE SECONDS CPU
 *
 * NETNS is a file (/run/netns/NAME); SIZE is bytes of a frame without its FCS; RATE is frames per second, 0: flat out.
 * Prints one JSON object, times in nanoseconds.
 *
 * Theory of operation. A frame leaves by sendmmsg(2) past the queueing discipline (PACKET_QDISC_BYPASS). On a veth pair
 * that call carries it, in the sender's own context, through everything that the kernel does with it on the other side;
 * a datapath that lives in the kernel is thus paid for by the sender, and slows it down. Frames are counted at
 * the far interface by the kernel, not here.
 *
 * A paced sender sleeps between batches: if it spun, its processor would look busy whatever the forwarder costs.
 *
 * Latency is from the clock before send(2) to the time stamp that the kernel puts on the frame when it arrives at the
 * far interface (SO_TIMESTAMPNS): the wake-up of a receiver is no part of it. The receiver is the same thread, which
 * looks at its socket now and then, so that it does not disturb what is measured.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <net/if.h>
#include <sched.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define BATCH 64
#define FRAME_MIN 64 /* bytes; holds Ethernet, IPv4, UDP, and the stamp */
#define FRAME_MAX 9018
#define ETHER 14
#define IPV4 20
#define UDP 8
#define STAMP (ETHER + IPV4 + UDP) /* where the payload begins: sequence number, then nanoseconds, 8 bytes each */
#define SECOND 1000000000ULL
#define BUFFER (32 << 20)      /* bytes of the receiver's socket */
#define LINGER_NS (SECOND / 5) /* frames may still be on their way when the last was sent */
#define MAGIC 0x53616c6c79ULL  /* "Sally", above the sequence number: frames of others are not ours */

struct order {
    uint8_t destination[ETH_ALEN], source[ETH_ALEN];
    size_t size;
    uint64_t rate, seconds;
    int cpu;
};

_Noreturn static void fail(const char *what) {
    fprintf(stderr, "traffic: %s: %s\n", what, strerror(errno));
    exit(1);
}

static uint64_t clock_ns(clockid_t clock) {
    struct timespec now;

    clock_gettime(clock, &now);
    return (uint64_t)now.tv_sec * SECOND + (uint64_t)now.tv_nsec;
}

static void sleep_until(uint64_t at_ns) {
    struct timespec at = {.tv_sec = (time_t)(at_ns / SECOND), .tv_nsec = (long)(at_ns % SECOND)};

    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &at, NULL) == EINTR) {
    }
}

static uint64_t number(const char *text, uint64_t least, uint64_t most) {
    char *end;
    unsigned long long value;

    errno = 0;
    value = strtoull(text, &end, 10);
    if (errno != 0 || *end != '\0' || end == text || value < least || value > most) {
        errno = EINVAL;
        fail(text);
    }
    return value;
}

static void mac(const char *text, uint8_t *bytes) {
    unsigned b[ETH_ALEN];

    if (sscanf(text, "%2x:%2x:%2x:%2x:%2x:%2x", &b[0], &b[1], &b[2], &b[3], &b[4], &b[5]) != ETH_ALEN) {
        errno = EINVAL;
        fail(text);
    }
    for (int i = 0; i < ETH_ALEN; i++) {
        bytes[i] = (uint8_t)b[i];
    }
}

/* DESTINATION SOURCE SIZE RATE SECONDS CPU */
static struct order read_order(char **words) {
    struct order order;

    mac(words[0], order.destination);
    mac(words[1], order.source);
    order.size = (size_t)number(words[2], FRAME_MIN, FRAME_MAX);
    order.rate = number(words[3], 0, 1000000000);
    order.seconds = number(words[4], 1, 3600);
    order.cpu = (int)number(words[5], 0, CPU_SETSIZE - 1);
    return order;
}

static void stay_on(int cpu) {
    cpu_set_t set;

    CPU_ZERO(&set);
    CPU_SET((unsigned)cpu, &set);
    if (sched_setaffinity(0, sizeof set, &set) != 0) {
        fail("cannot stay on that processor");
    }
    /* Sleeps would be 50 us too long by default. */
    prctl(PR_SET_TIMERSLACK, 1UL, 0UL, 0UL, 0UL);
}

/* A packet socket of an interface in a network namespace; `protocol` 0: it receives nothing. */
static int open_socket(const char *netns, const char *interface, uint16_t protocol) {
    struct sockaddr_ll address = {.sll_family = AF_PACKET};
    int file = open(netns, O_RDONLY | O_CLOEXEC), sock, one = 1, buffer = BUFFER;

    if (file < 0 || setns(file, CLONE_NEWNET) != 0) {
        fail(netns);
    }
    close(file);
    sock = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, 0);
    address.sll_ifindex = (int)if_nametoindex(interface);
    if (sock < 0 || address.sll_ifindex == 0) {
        fail(interface);
    }
    if (protocol == 0) {
        if (setsockopt(sock, SOL_PACKET, PACKET_QDISC_BYPASS, &one, sizeof one) != 0) {
            fail("PACKET_QDISC_BYPASS");
        }
    } else if (setsockopt(sock, SOL_SOCKET, SO_RCVBUFFORCE, &buffer, sizeof buffer) != 0 ||
               setsockopt(sock, SOL_PACKET, PACKET_IGNORE_OUTGOING, &one, sizeof one) != 0 ||
               setsockopt(sock, SOL_SOCKET, SO_TIMESTAMPNS, &one, sizeof one) != 0) {
        fail("cannot prepare the receiver");
    }
    address.sll_protocol = htons(protocol);
    if (bind(sock, (struct sockaddr *)&address, sizeof address) != 0) {
        fail("bind");
    }
    return sock;
}

static void put16(uint8_t *at, size_t value) {
    at[0] = (uint8_t)(value >> 8);
    at[1] = (uint8_t)value;
}

/* Ethernet, IPv4 with its checksum, UDP without (RFC 768 allows 0); 192.0.2.0/24 is for documentation (RFC 5737). */
static void make_frame(uint8_t *frame, const struct order *order) {
    static const uint8_t addresses[8] = {192, 0, 2, 1, 192, 0, 2, 2};
    uint8_t *ip = frame + ETHER, *udp = ip + IPV4;
    uint32_t sum = 0;

    memset(frame, 0, order->size);
    memcpy(frame, order->destination, ETH_ALEN);
    memcpy(frame + ETH_ALEN, order->source, ETH_ALEN);
    put16(frame + 12, ETH_P_IP);
    ip[0] = 0x45;
    put16(ip + 2, order->size - ETHER);
    ip[8] = 64;
    ip[9] = 17;
    memcpy(ip + 12, addresses, sizeof addresses);
    for (int i = 0; i < IPV4; i += 2) {
        sum += (uint32_t)(ip[i] << 8 | ip[i + 1]);
    }
    sum = (sum & 0xffff) + (sum >> 16);
    put16(ip + 10, (uint16_t)~(sum + (sum >> 16)));
    put16(udp, 4000);
    put16(udp + 2, 4001);
    put16(udp + 4, order->size - ETHER - IPV4);
}

static int do_send(char **words) {
    static uint8_t frame[FRAME_MAX];
    struct order order = read_order(words + 2);
    struct iovec part = {.iov_base = frame, .iov_len = order.size};
    struct mmsghdr message[BATCH] = {0};
    int sock = open_socket(words[0], words[1], 0);
    uint64_t sent = 0, failed = 0, due = 0, begun, end, now, elapsed;

    make_frame(frame, &order);
    for (int i = 0; i < BATCH; i++) {
        message[i].msg_hdr = (struct msghdr){.msg_iov = &part, .msg_iovlen = 1};
    }
    stay_on(order.cpu);
    now = begun = clock_ns(CLOCK_MONOTONIC);
    end = begun + order.seconds * SECOND;
    while (now < end) {
        int done = sendmmsg(sock, message, BATCH, 0);

        if (done > 0) {
            sent += (uint64_t)done;
        } else if (errno == ENOBUFS || errno == EAGAIN || errno == EINTR) {
            failed++;
        } else {
            fail("sendmmsg");
        }
        if (order.rate != 0) {
            due += BATCH;
            sleep_until(begun + due * SECOND / order.rate);
        }
        now = clock_ns(CLOCK_MONOTONIC);
    }
    elapsed = now - begun;
    printf("{\"sent\": %" PRIu64 ", \"failed\": %" PRIu64 ", \"ns\": %" PRIu64 "}\n", sent, failed, elapsed);
    return 0;
}

/* All frames that have arrived; `delay[sequence]` gets what each took, 0 stays for those that did not come. */
static void collect(int sock, uint64_t *delay, uint64_t count) {
    uint8_t frame[FRAME_MAX];
    union {
        struct cmsghdr aligned;
        char bytes[CMSG_SPACE(sizeof(struct timespec))];
    } control;

    for (;;) {
        struct iovec part = {.iov_base = frame, .iov_len = sizeof frame};
        struct msghdr message = {
            .msg_iov = &part, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
        ssize_t got = recvmsg(sock, &message, MSG_DONTWAIT);
        const struct cmsghdr *header;
        struct timespec at;
        uint64_t stamp[2];

        if (got < 0) {
            return;
        }
        header = CMSG_FIRSTHDR(&message);
        if (got < FRAME_MIN || header == NULL || header->cmsg_type != SCM_TIMESTAMPNS) {
            continue;
        }
        memcpy(stamp, frame + STAMP, sizeof stamp);
        memcpy(&at, CMSG_DATA(header), sizeof at);
        if (stamp[0] >> 24 == MAGIC && (stamp[0] & 0xffffff) < count) {
            delay[stamp[0] & 0xffffff] = (uint64_t)at.tv_sec * SECOND + (uint64_t)at.tv_nsec - stamp[1];
        }
    }
}

static int ascending(const void *a, const void *b) {
    uint64_t left = *(const uint64_t *)a, right = *(const uint64_t *)b;

    return (left > right) - (left < right);
}

static int do_latency(char **words) {
    static uint8_t frame[FRAME_MAX];
    struct order order = read_order(words + 4);
    int receiver = open_socket(words[2], words[3], ETH_P_ALL), sender = open_socket(words[0], words[1], 0);
    uint64_t count = order.rate * order.seconds, received = 0, begun;
    uint64_t *delay = calloc(count + 1, sizeof *delay);

    if (delay == NULL || order.rate == 0 || count >= 1U << 24) {
        errno = EINVAL;
        fail("rate and seconds");
    }
    make_frame(frame, &order);
    stay_on(order.cpu);
    begun = clock_ns(CLOCK_MONOTONIC);
    for (uint64_t i = 0; i < count; i++) {
        uint64_t stamp[2] = {MAGIC << 24 | i, 0};

        sleep_until(begun + i * SECOND / order.rate);
        stamp[1] = clock_ns(CLOCK_REALTIME); /* the clock of SO_TIMESTAMPNS */
        memcpy(frame + STAMP, stamp, sizeof stamp);
        if (send(sender, frame, order.size, 0) < 0 && errno != ENOBUFS) {
            fail("send");
        }
        if (i % 256 == 255) {
            collect(receiver, delay, count);
        }
    }
    sleep_until(clock_ns(CLOCK_MONOTONIC) + LINGER_NS);
    collect(receiver, delay, count);
    for (uint64_t i = 0; i < count; i++) {
        if (delay[i] != 0) {
            delay[received++] = delay[i];
        }
    }
    qsort(delay, received, sizeof *delay, ascending);
    printf("{\"sent\": %" PRIu64 ", \"received\": %" PRIu64 ", \"p50\": %" PRIu64 ", \"p90\": %" PRIu64
           ", \"p99\": %" PRIu64 ", \"max\": %" PRIu64 "}\n",
           count, received, delay[received / 2], delay[received * 9 / 10], delay[received * 99 / 100],
           delay[received > 0 ? received - 1 : 0]);
    return 0;
}

int main(int argc, char **argv) {
    if (argc == 10 && strcmp(argv[1], "send") == 0) {
        return do_send(argv + 2);
    }
    if (argc == 12 && strcmp(argv[1], "latency") == 0) {
        return do_latency(argv + 2);
    }
    fprintf(stderr, "usage: traffic send|latency ...; see the head of traffic.c\n");
    return 2;
}
