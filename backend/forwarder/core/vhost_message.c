#include "vhost_message.h"

#include <errno.h>
#include <stdbool.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define MAX_DESCRIPTORS 253 /* that come with one message (unix(7), SCM_MAX_FD) */

_Static_assert(offsetof(struct vhost_message, payload) >= VHOST_MESSAGE_HEADER, "the header is in front");

/* Close what a stranger handed over: a TCP socket that lingers would make us wait for its peer (socket(7), SO_LINGER).
 */
static void drop(int file) {
    const struct linger none = {0};

    (void)setsockopt(file, SOL_SOCKET, SO_LINGER, &none, sizeof none);
    close(file);
}

void vhost_message_clear(struct vhost_message *message) {
    for (uint32_t i = 0; i < message->files; i++) {
        if (message->file[i] >= 0) {
            drop(message->file[i]);
        }
    }
    message->files = 0;
    message->got = 0;
}

/* Take over the descriptors of one recvmsg(2); true if all is as it should be. */
static bool take_files(struct vhost_message *message, struct msghdr *header) {
    bool right = !(header->msg_flags & MSG_CTRUNC);

    for (struct cmsghdr *control = CMSG_FIRSTHDR(header); control != NULL; control = CMSG_NXTHDR(header, control)) {
        size_t files;

        if (control->cmsg_level != SOL_SOCKET || control->cmsg_type != SCM_RIGHTS) {
            right = false;
            continue;
        }
        files = (control->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        for (size_t i = 0; i < files; i++) {
            int file;

            memcpy(&file, CMSG_DATA(control) + i * sizeof file, sizeof file);
            if (message->got == 0 && message->files < VHOST_MESSAGE_FILES) {
                message->file[message->files++] = file;
            } else {
                drop(file);
                right = false;
            }
        }
    }
    return right;
}

/* One read of at most `want` bytes to `to`. Returns like recvmsg(2), -2 for descriptors that do not belong. */
static ssize_t read_some(struct vhost_message *message, int socket, void *to, size_t want) {
    /* Room for more than we take, so that too many are seen, and closed here, rather than by the kernel in our name. */
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(sizeof(int) * MAX_DESCRIPTORS)];
    } control;
    struct iovec part = {.iov_base = to, .iov_len = want};
    struct msghdr header = {
        .msg_iov = &part, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
    ssize_t got;

    do {
        got = recvmsg(socket, &header, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    } while (got < 0 && errno == EINTR);
    if (got >= 0 && !take_files(message, &header)) {
        return -2;
    }
    return got;
}

void vhost_message_close(int socket) {
    uint8_t bytes[VHOST_MESSAGE_PAYLOAD];
    struct vhost_message rest = {0};
    ssize_t got;

    /* Nobody can send any more; what was sent is bounded by the buffer of the other side (unix(7), SO_SNDBUF). */
    (void)shutdown(socket, SHUT_RDWR);
    do {
        got = read_some(&rest, socket, bytes, sizeof bytes);
        vhost_message_clear(&rest);
    } while (got > 0 || got == -2);
    close(socket);
}

enum vhost_read vhost_message_read(struct vhost_message *message, int socket, enum fault *fault) {
    for (;;) {
        bool in_header = message->got < VHOST_MESSAGE_HEADER;
        uint8_t *to = in_header ? (uint8_t *)message + message->got
                                : message->payload.bytes + (message->got - VHOST_MESSAGE_HEADER);
        size_t want =
            in_header ? VHOST_MESSAGE_HEADER - message->got : message->size - (message->got - VHOST_MESSAGE_HEADER);
        ssize_t got = read_some(message, socket, to, want);

        if (got == -2) {
            *fault = FAULT_DESCRIPTORS;
            return VHOST_READ_FAULT;
        }
        if (got < 0) {
            if (errno == EAGAIN || errno == EWOULDBLOCK) {
                return VHOST_READ_MORE;
            }
            if (errno == ECONNRESET) {
                return VHOST_READ_END;
            }
            *fault = FAULT_SOCKET;
            return VHOST_READ_FAULT;
        }
        if (got == 0) {
            return VHOST_READ_END;
        }
        message->got += (uint32_t)got;
        if (message->got < VHOST_MESSAGE_HEADER) {
            continue;
        }
        if (in_header) {
            if ((message->flags & ~VHOST_NEED_REPLY) != VHOST_VERSION) {
                *fault = FAULT_MESSAGE;
                return VHOST_READ_FAULT;
            }
            if (message->size > VHOST_MESSAGE_PAYLOAD) {
                *fault = FAULT_SIZE;
                return VHOST_READ_FAULT;
            }
        }
        if (message->got == VHOST_MESSAGE_HEADER + message->size) {
            return VHOST_READ_WHOLE;
        }
    }
}

enum fault vhost_message_reply(int socket, uint32_t request, const void *payload, uint32_t size) {
    uint32_t header[3] = {request, VHOST_VERSION | VHOST_REPLY, size};
    struct iovec part[2] = {{.iov_base = header, .iov_len = sizeof header},
                            {.iov_base = (void *)(uintptr_t)payload, .iov_len = size}};
    struct msghdr message = {.msg_iov = part, .msg_iovlen = 2};
    ssize_t sent = sendmsg(socket, &message, MSG_DONTWAIT | MSG_NOSIGNAL);

    return sent == (ssize_t)(sizeof header + size) ? FAULT_NONE : FAULT_SOCKET;
}
