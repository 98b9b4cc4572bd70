#include "files.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "front_end.h"

#define MAX_HELD 64 /* copies of memory, kept by the front-end */
#define LINGER 10   /* seconds; more than fuzz_vhost_user.c allows an input to wait */

static int held[MAX_HELD];
static unsigned held_count;

/* Where lingering sockets are connected to. */
static int reader;
static struct sockaddr_in reader_address = {.sin_family = AF_INET};

void files_set_up(void) {
    socklen_t len = sizeof reader_address;
    int least = 1;

    reader = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    reader_address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    must(reader >= 0 && setsockopt(reader, SOL_SOCKET, SO_RCVBUF, &least, sizeof least) == 0);
    must(bind(reader, (struct sockaddr *)&reader_address, len) == 0 && listen(reader, MAX_FILES) == 0);
    must(getsockname(reader, (struct sockaddr *)&reader_address, &len) == 0);
}

static uint8_t unread[65536];

/* A TCP socket with bytes that nobody reads, and which whoever closes it last is to wait for. */
static int new_lingering(void) {
    const struct linger linger = {.l_onoff = 1, .l_linger = LINGER};
    int file = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), got;

    must(file >= 0);
    while ((got = accept4(reader, NULL, NULL, SOCK_CLOEXEC)) >= 0) {
        close(got); /* one of before */
    }
    must(connect(file, (struct sockaddr *)&reader_address, sizeof reader_address) == 0);
    while (send(file, unread, sizeof unread, MSG_DONTWAIT | MSG_NOSIGNAL) > 0) {
    }
    must(setsockopt(file, SOL_SOCKET, SO_LINGER, &linger, sizeof linger) == 0);
    return file;
}

int files_new(unsigned kind, int other) {
    int file, pair[2];

    switch (kind % 16) {
    case 0:
        return eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    case 1:
        return eventfd(0, EFD_CLOEXEC); /* reading it waits */
    case 2:                             /* writing it waits, reading it never ends */
        file = eventfd(0, EFD_CLOEXEC | EFD_SEMAPHORE);
        must(write(file, &(uint64_t){UINT64_MAX - 1}, 8) == 8);
        return file;
    case 3:
        file = new_memory(FILE_BYTES, 0);
        break;
    case 4:
        file = new_memory(FILE_BYTES, F_SEAL_SHRINK | F_SEAL_WRITE);
        break;
    case 5:
        file = new_memory(FILE_BYTES, F_SEAL_GROW);
        break;
    case 6:
        file = new_memory(PAGE, F_SEAL_SHRINK);
        break;
    case 7:
        return epoll_create1(EPOLL_CLOEXEC);
    case 8:
        must(pipe2(pair, O_CLOEXEC) == 0);
        close(pair[0]);
        return pair[1];
    case 9:
        must(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) == 0);
        close(pair[0]);
        return pair[1];
    case 10:
        return open("/dev/zero", O_RDWR | O_CLOEXEC);
    case 11:
        return open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    case 12: { /* sealed, but not open for writing */
        char path[32];

        file = new_memory(FILE_BYTES, F_SEAL_SHRINK);
        must(snprintf(path, sizeof path, "/proc/self/fd/%d", file) > 0);
        pair[0] = open(path, O_RDONLY | O_CLOEXEC);
        close(file);
        return pair[0];
    }
    case 13:
        return open("/", O_PATH | O_CLOEXEC);
    case 14:
        return new_lingering();
    default:
        file = dup(other);
        break;
    }
    if (held_count < MAX_HELD) {
        held[held_count++] = dup(file);
    }
    return file;
}

void files_close(bool handed_over, const int *files, unsigned n) {
    const struct linger none = {0};

    for (unsigned i = 0; i < n; i++) {
        if (!handed_over) {
            (void)setsockopt(files[i], SOL_SOCKET, SO_LINGER, &none, sizeof none);
        }
        close(files[i]);
    }
}

void files_spoil(unsigned how, uint32_t size) {
    for (unsigned i = 0; i < held_count; i++) {
        switch (how) {
        case 0:
            (void)ftruncate(held[i], size % (FILE_BYTES + PAGE));
            break;
        case 1:
            (void)fallocate(held[i], FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, FILE_BYTES);
            break;
        default:
            (void)fcntl(held[i], F_ADD_SEALS, size & 15);
            break;
        }
    }
}

void files_forget(void) {
    for (unsigned i = 0; i < held_count; i++) {
        close(held[i]);
    }
    held_count = 0;
}
