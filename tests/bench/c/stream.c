/* One TCP connection that carries as much as it can, for the forwarder's benchmark.
 *
 *   stream drain PORT                  take every connection, one after the other, and throw away what it brings
 *   stream pour ADDRESS PORT SECONDS   connect and send; prints one JSON object: bytes, nanoseconds
 *
 * The sender says how much it wrote, so the receiver's answer (one byte when all was read) ends the measurement: what
 * still stood in a buffer when the time was over is waited for, and counted.
 *
 * Linked statically it also runs in an appliance's image, which has no compiler and another libc.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <inttypes.h>
#include <netinet/in.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define SECOND 1000000000ULL
#define CHUNK (256 << 10) /* bytes of one write */

static char buffer[CHUNK];

_Noreturn static void fail(const char *what) {
    fprintf(stderr, "stream: %s: %s\n", what, strerror(errno));
    exit(1);
}

static uint64_t clock_ns(void) {
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * SECOND + (uint64_t)now.tv_nsec;
}

static struct sockaddr_in to_address(const char *ip, const char *port) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)strtoul(port, NULL, 10))};

    if (inet_pton(AF_INET, ip, &address.sin_addr) != 1 || address.sin_port == 0) {
        errno = EINVAL;
        fail(ip);
    }
    return address;
}

_Noreturn static void drain(const char *port) {
    struct sockaddr_in address = to_address("0.0.0.0", port);
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), one = 1;

    if (listener < 0 || setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one) != 0 ||
        bind(listener, (struct sockaddr *)&address, sizeof address) != 0 || listen(listener, 4) != 0) {
        fail("cannot listen");
    }
    for (;;) {
        int taken = accept(listener, NULL, NULL);

        if (taken < 0) {
            fail("accept");
        }
        while (recv(taken, buffer, sizeof buffer, 0) > 0) {
        }
        /* The other end may be gone; the next connection is not. */
        (void)send(taken, "!", 1, MSG_NOSIGNAL);
        close(taken);
    }
}

static int pour(const char *ip, const char *port, const char *seconds) {
    struct sockaddr_in address = to_address(ip, port);
    int sock = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    uint64_t bytes = 0, begun, end;
    char answer;

    if (sock < 0 || connect(sock, (struct sockaddr *)&address, sizeof address) != 0) {
        fail("cannot connect");
    }
    begun = clock_ns();
    end = begun + strtoull(seconds, NULL, 10) * SECOND;
    while (clock_ns() < end) {
        ssize_t done = send(sock, buffer, sizeof buffer, MSG_NOSIGNAL);

        if (done < 0) {
            fail("send");
        }
        bytes += (uint64_t)done;
    }
    if (shutdown(sock, SHUT_WR) != 0 || recv(sock, &answer, 1, 0) != 1) {
        fail("the receiver did not take it all");
    }
    printf("{\"bytes\": %" PRIu64 ", \"ns\": %" PRIu64 "}\n", bytes, clock_ns() - begun);
    return 0;
}

int main(int argc, char **argv) {
    if (argc == 3 && strcmp(argv[1], "drain") == 0) {
        drain(argv[2]);
    }
    if (argc == 5 && strcmp(argv[1], "pour") == 0) {
        return pour(argv[2], argv[3], argv[4]);
    }
    fprintf(stderr, "usage: stream drain PORT | stream pour ADDRESS PORT SECONDS\n");
    return 2;
}
