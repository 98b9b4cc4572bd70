/* Messages of the vhost-user protocol on a stream socket, with the file descriptors that come along
 * (QEMU: docs/interop/vhost-user, "Message Specification").
 *
 * Theory of operation. The reader never blocks: what has come of a message waits in `message` for the rest. It asks the
 * socket for no byte more than the current header or payload has, so descriptors that arrive belong to this message;
 * they must come with its first byte. A descriptor is owned by the message until somebody takes it out of `file`.
 */
#ifndef SALLYPORT_VHOST_MESSAGE_H
#define SALLYPORT_VHOST_MESSAGE_H

#include <stddef.h>
#include <stdint.h>

#include "vhost_fault.h"

#define VHOST_MESSAGE_FILES 8     /* most descriptors of a message: one for each region of SET_MEM_TABLE */
#define VHOST_MESSAGE_HEADER 12   /* bytes */
#define VHOST_MESSAGE_PAYLOAD 264 /* bytes; the largest is SET_MEM_TABLE with 8 regions */
#define VHOST_VERSION 1U
#define VHOST_VERSION_MASK 3U
#define VHOST_REPLY 4U /* flag of a reply */
#define VHOST_NEED_REPLY 8U

struct vhost_message {
    uint32_t request;
    uint32_t flags;
    uint32_t size; /* bytes of the payload */
    union {
        uint64_t words[VHOST_MESSAGE_PAYLOAD / 8];
        uint8_t bytes[VHOST_MESSAGE_PAYLOAD];
    } payload;
    uint32_t got; /* bytes so far, header included */
    uint32_t files;
    int file[VHOST_MESSAGE_FILES]; /* -1 where it was taken */
};

enum vhost_read { VHOST_READ_MORE, VHOST_READ_WHOLE, VHOST_READ_END, VHOST_READ_FAULT };

/* Forget the message, and close what it still owns. */
void vhost_message_clear(struct vhost_message *message);

/* Close a connection, and what waits in it unread: the kernel would close the descriptors among that in our name, and
 * some of them can make it wait.
 */
void vhost_message_close(int socket);

/* Read on. VHOST_READ_MORE: nothing more to read now. VHOST_READ_FAULT: see `fault`. */
enum vhost_read vhost_message_read(struct vhost_message *message, int socket, enum fault *fault);

/* Send a reply of `size` bytes. FAULT_SOCKET if it does not go out at once. */
enum fault vhost_message_reply(int socket, uint32_t request, const void *payload, uint32_t size);

#endif
