#include "front_end.h"

#include <dirent.h>
#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#define HONEST_FEATURES (1ULL << 32 | 1ULL << 30 | 1ULL << 15) /* version 1, protocol features, mergeable buffers */
#define VIRTIO_HEADER 12U
#define BACKLOG 16
#define MAX_TURNS (4 * BACKLOG + 64) /* each connection that waits takes one or two */

struct endpoint *port;
struct vhost_user *device;
struct counter received[VERDICTS];
struct counter sent[VERDICTS];
static struct sockaddr_un address = {.sun_family = AF_UNIX};
static socklen_t address_len = sizeof address;
static unsigned mappings;

/* The linker gives the endpoint these for mmap(2) and munmap(2). */
void *__real_mmap(void *at, size_t len, int protection, int flags, int file, off_t offset);
int __real_munmap(void *at, size_t len);
void *__wrap_mmap(void *at, size_t len, int protection, int flags, int file, off_t offset);
int __wrap_munmap(void *at, size_t len);
const char *__asan_default_options(void);

/* A caller of the endpoint's kind: shared memory of a file, no address wanted. */
void *__wrap_mmap(void *at, size_t len, int protection, int flags, int file, off_t offset) {
    uint8_t *room, *inside;

    if (file < 0 || !(flags & MAP_SHARED) || !(flags & MAP_NORESERVE)) {
        return __real_mmap(at, len, protection, flags, file, offset);
    }
    room = __real_mmap(NULL, len + 2 * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (room == MAP_FAILED) {
        return MAP_FAILED;
    }
    inside = __real_mmap(room + PAGE, len, protection, flags | MAP_FIXED, file, offset);
    if (inside == MAP_FAILED) {
        __real_munmap(room, len + 2 * PAGE);
        return MAP_FAILED;
    }
    mappings++;
    return inside;
}

int __wrap_munmap(void *at, size_t len) {
    for (uint32_t i = 0; device != NULL && i < device->memory.regions; i++) {
        if (device->memory.region[i].base == at) {
            must(mappings > 0);
            mappings--;
            return __real_munmap((uint8_t *)at - PAGE, len + 2 * PAGE);
        }
    }
    return __real_munmap(at, len);
}

/* Which the sandbox has no variable for. */
const char *__asan_default_options(void) {
    return "detect_leaks=1:handle_abort=1:allocator_may_return_null=1";
}

void port_open(bool offload) {
    int listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

    /* The kernel finds a name that no file has (unix(7), "Autobind feature"). */
    must(listener >= 0 && bind(listener, (struct sockaddr *)&address, sizeof(sa_family_t)) == 0);
    must(getsockname(listener, (struct sockaddr *)&address, &address_len) == 0 && listen(listener, BACKLOG) == 0);
    port = vhost_net_open(listener, MEMORY_LIMIT, offload, FROM_VM);
    must(port != NULL);
    port->counters = received;
    device = vhost_net_device(port);
    must(device != NULL);
}

bool port_turn(bool want_frames, bool want_room) {
    struct pollfd fds[FRAME_POLLS];
    int n = port->ops->arm(port, fds, want_frames, want_room), ready;

    must(n <= FRAME_POLLS);
    if (n < 0) {
        return true;
    }
    ready = poll(fds, (nfds_t)n, 0);
    if (ready < 0) {
        must(errno == EINTR); /* libFuzzer's alarm */
        for (int i = 0; i < n; i++) {
            fds[i].revents = 0;
        }
    }
    port->ops->wake(port, fds, (unsigned)n);
    return ready != 0;
}

/* Turn until nothing comes any more. */
static void port_calm(void) {
    for (unsigned i = 0; port_turn(false, false); i++) {
        must(i < MAX_TURNS);
    }
}

unsigned count_files(void) {
    static int folder = -1;
    unsigned n = 0;
    DIR *files;

    if (folder < 0) {
        folder = open("/proc/self/fd", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        must(folder >= 0);
    }
    files = fdopendir(dup(folder));
    must(files != NULL);
    rewinddir(files);
    while (readdir(files) != NULL) {
        n++;
    }
    closedir(files);
    return n;
}

unsigned count_mappings(void) {
    return mappings;
}

int new_memory(size_t bytes, unsigned seals) {
    int file = memfd_create("guest", MFD_CLOEXEC | MFD_ALLOW_SEALING);

    must(file >= 0 && ftruncate(file, (off_t)bytes) == 0);
    must(seals == 0 || fcntl(file, F_ADD_SEALS, seals) == 0);
    return file;
}

int new_connection(void) {
    int connection = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

    must(connection >= 0);
    if (connect(connection, (struct sockaddr *)&address, address_len) != 0) {
        close(connection);
        return -1;
    }
    return connection;
}

void front_end_open(struct front_end *front_end) {
    *front_end = (struct front_end){.connection = new_connection(), .file = new_memory(FILE_BYTES, F_SEAL_SHRINK)};
    front_end->memory = __real_mmap(NULL, FILE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, front_end->file, 0);
    must(front_end->memory != MAP_FAILED && front_end->connection >= 0);
    for (unsigned i = 0; i < VHOST_QUEUES; i++) {
        front_end->kick[i] = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        front_end->call[i] = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        must(front_end->kick[i] >= 0 && front_end->call[i] >= 0);
    }
    port_calm();
}

void front_end_close(struct front_end *front_end) {
    if (front_end->connection >= 0) {
        close(front_end->connection);
    }
    port_calm();
    must(device->connection < 0);
    must(device->memory.regions == 0 && device->memory.total == 0 && mappings == 0);
    __real_munmap(front_end->memory, FILE_BYTES);
    must(fcntl(front_end->file, F_ADD_SEALS, F_SEAL_WRITE) == 0 || errno == EPERM); /* EBUSY: it is mapped */
    close(front_end->file);
    for (unsigned i = 0; i < VHOST_QUEUES; i++) {
        close(front_end->kick[i]);
        close(front_end->call[i]);
    }
}

bool say_bytes(int connection, const void *bytes, size_t len, const int *files, unsigned n) {
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(sizeof(int) * 32)];
    } control = {0};
    struct iovec part = {.iov_base = (void *)(uintptr_t)bytes, .iov_len = len};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};

    must(n <= 32);
    if (n > 0) {
        struct cmsghdr *header = &control.align;

        message.msg_control = &control;
        message.msg_controllen = CMSG_SPACE(sizeof(int) * n);
        header->cmsg_level = SOL_SOCKET;
        header->cmsg_type = SCM_RIGHTS;
        header->cmsg_len = CMSG_LEN(sizeof(int) * n);
        memcpy(CMSG_DATA(header), files, sizeof(int) * n);
    }
    return sendmsg(connection, &message, MSG_DONTWAIT | MSG_NOSIGNAL) == (ssize_t)len;
}

bool say(int connection, uint32_t request, uint32_t flags, const void *payload, uint32_t len, const int *files,
         unsigned n) {
    uint32_t header[3] = {request, flags, len};
    uint8_t bytes[sizeof header + sizeof(struct say_regions)];

    must(len <= sizeof(struct say_regions));
    memcpy(bytes, header, sizeof header);
    if (len > 0) {
        memcpy(bytes + sizeof header, payload, len);
    }
    return say_bytes(connection, bytes, sizeof header + len, files, n);
}

/* The same, and the endpoint takes note of it. */
static void tell(int connection, uint32_t request, const void *payload, size_t len, const int *files, unsigned n) {
    (void)say(connection, request, VHOST_VERSION, payload, (uint32_t)len, files, n);
    (void)port_turn(false, false);
}

void front_end_negotiate(struct front_end *front_end, uint64_t features, uint32_t rx_size, uint32_t tx_size) {
    const struct say_regions regions = {
        .regions = 2, .region = {{GUEST_0, REGION_BYTES, USER_0, 0}, {GUEST_1, REGION_BYTES, USER_1, REGION_BYTES}}};
    const int files[2] = {front_end->file, front_end->file};
    const uint64_t protocol = 1U << 3;
    int connection = front_end->connection;

    tell(connection, SAY_SET_OWNER, NULL, 0, NULL, 0);
    tell(connection, SAY_SET_PROTOCOL_FEATURES, &protocol, sizeof protocol, NULL, 0);
    tell(connection, SAY_SET_FEATURES, &features, sizeof features, NULL, 0);
    tell(connection, SAY_SET_MEM_TABLE, &regions, 8 + 2 * sizeof(struct say_region), files, 2);
    front_end->size[VHOST_RX] = rx_size;
    front_end->size[VHOST_TX] = tx_size;
    for (uint32_t i = 0; i < VHOST_QUEUES; i++) {
        const struct say_addresses addresses = {.index = i,
                                                .table = USER_0 + TABLE_AT(i),
                                                .used = USER_0 + USED_AT(i),
                                                .available = USER_0 + AVAILABLE_AT(i)};
        const uint32_t number[2] = {i, front_end->size[i]}, enable[2] = {i, 1};
        const uint64_t index = i;

        tell(connection, SAY_SET_VRING_CALL, &index, sizeof index, &front_end->call[i], 1);
        tell(connection, SAY_SET_VRING_NUM, number, sizeof number, NULL, 0);
        tell(connection, SAY_SET_VRING_ADDR, &addresses, sizeof addresses, NULL, 0);
        tell(connection, SAY_SET_VRING_KICK, &index, sizeof index, &front_end->kick[i], 1);
        if (features >> 30 & 1) {
            tell(connection, SAY_SET_VRING_ENABLE, enable, sizeof enable, NULL, 0);
        }
    }
}

uint64_t guest_of(uint32_t at) {
    return at < REGION_BYTES ? GUEST_0 + at : GUEST_1 + (at - REGION_BYTES);
}

void poke(struct front_end *front_end, uint32_t at, const void *bytes, size_t len) {
    at %= FILE_BYTES;
    len = len < FILE_BYTES - at ? len : FILE_BYTES - at;
    memcpy(front_end->memory + at, bytes, len);
}

void poke16(struct front_end *front_end, uint32_t at, uint16_t value) {
    value = htole16(value);
    poke(front_end, at, &value, sizeof value);
}

uint16_t peek16(const struct front_end *front_end, uint32_t at) {
    uint16_t value;

    memcpy(&value, front_end->memory + at, sizeof value);
    return le16toh(value);
}

void put_descriptor(struct front_end *front_end, uint32_t at, uint64_t guest, uint32_t len, uint16_t flags,
                    uint16_t next) {
    const struct vring_desc descriptor = {
        .addr = htole64(guest), .len = htole32(len), .flags = htole16(flags), .next = htole16(next)};

    poke(front_end, at, &descriptor, sizeof descriptor);
}

void offer(struct front_end *front_end, unsigned queue, uint16_t head) {
    uint16_t index = front_end->available[queue]++;

    poke16(front_end, AVAILABLE_AT(queue) + 4 + 2 * (index & (front_end->size[queue] - 1)), head);
    poke16(front_end, AVAILABLE_AT(queue) + 2, front_end->available[queue]);
}

void check_alive(void) {
    static uint8_t bytes[60] = {2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 6, 'a', 'l', 'i', 'v', 'e'};
    static struct frame frame;
    struct frame *frames = &frame;
    struct front_end front_end;
    uint8_t *at;

    front_end_open(&front_end);
    front_end_negotiate(&front_end, HONEST_FEATURES, 4, 4);
    must(port->ops->up(port));
    /* From the guest. */
    put_descriptor(&front_end, TABLE_AT(VHOST_TX), guest_of(BUFFERS_AT), VIRTIO_HEADER, VRING_DESC_F_NEXT, 1);
    put_descriptor(&front_end, TABLE_AT(VHOST_TX) + 16, guest_of(BUFFERS_AT + 64), sizeof bytes, 0, 0);
    poke(&front_end, BUFFERS_AT + 64, bytes, sizeof bytes);
    offer(&front_end, VHOST_TX, 0);
    must(port->ops->receive(port, &frame, 1) == 1);
    must(frame.len == sizeof bytes && frame.parts == 1 && memcmp(frame.part[0].iov_base, bytes, sizeof bytes) == 0);
    port->ops->release(port);
    must(peek16(&front_end, USED_AT(VHOST_TX) + 2) == 1);
    /* To the guest. */
    put_descriptor(&front_end, TABLE_AT(VHOST_RX), guest_of(BUFFERS_AT + 256), 128, VRING_DESC_F_WRITE, 0);
    offer(&front_end, VHOST_RX, 0);
    must(port->ops->room(port) >= 1);
    frame = (struct frame){.parts = 1, .len = sizeof bytes, .part = {{.iov_base = bytes, .iov_len = sizeof bytes}}};
    port->ops->send(port, &frames, 1, sent);
    must(peek16(&front_end, USED_AT(VHOST_RX) + 2) == 1);
    at = front_end.memory + BUFFERS_AT + 256;
    must(at[0] == 0 && at[10] == 1 && memcmp(at + VIRTIO_HEADER, bytes, sizeof bytes) == 0);
    front_end_close(&front_end);
}
