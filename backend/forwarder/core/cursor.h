/* Copying between two lists of ranges of memory. */
#ifndef SALLYPORT_CURSOR_H
#define SALLYPORT_CURSOR_H

#include <stdint.h>
#include <string.h>
#include <sys/uio.h>

/* A cursor in a list of ranges. */
struct cursor {
    const struct iovec *part;
    uint32_t parts;
    size_t offset;
};

/* Copy `len` bytes, or as many as both have. Returns how many. */
static inline size_t cursor_copy(struct cursor *to, struct cursor *from, size_t len) {
    size_t left = len;

    while (left > 0 && to->parts > 0 && from->parts > 0) {
        size_t room = to->part->iov_len - to->offset, have = from->part->iov_len - from->offset;
        size_t n = room < have ? room : have;

        n = n < left ? n : left;
        memcpy((uint8_t *)to->part->iov_base + to->offset, (const uint8_t *)from->part->iov_base + from->offset, n);
        left -= n;
        to->offset += n;
        from->offset += n;
        if (to->offset == to->part->iov_len) {
            *to = (struct cursor){.part = to->part + 1, .parts = to->parts - 1};
        }
        if (from->offset == from->part->iov_len) {
            *from = (struct cursor){.part = from->part + 1, .parts = from->parts - 1};
        }
    }
    return len - left;
}

#endif
