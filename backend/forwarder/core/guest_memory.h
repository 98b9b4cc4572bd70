/* The memory of a guest, mapped here: the table of regions that the front-end told us, and translation.
 *
 * Theory of operation. A front-end (vhost-user: SET_MEM_TABLE) hands over files and says where in the guest's address
 * space and in its own each lies. Whoever can shrink a mapped file kills every process that touches the lost pages
 * (SIGBUS), and a file of another kind could make us wait for its server. So a file is taken only if it is in the
 * kernel's shared memory (tmpfs: memfd_create(2); not hugetlbfs, whose pages can run out at first touch) and sealed
 * with F_SEAL_SHRINK, which nobody can take back (fcntl(2)).
 *
 * A translated range lies in one region; nothing here follows what is in the memory.
 */
#ifndef SALLYPORT_GUEST_MEMORY_H
#define SALLYPORT_GUEST_MEMORY_H

#include <stdint.h>
#include <string.h>

#include "vhost_fault.h"

#define GUEST_REGIONS 8 /* of SET_MEM_TABLE (QEMU docs/interop/vhost-user, "Memory regions description") */

struct guest_region {
    uint64_t guest; /* guest-physical address */
    uint64_t user;  /* the front-end's address; rings are told in these */
    uint64_t size;  /* bytes */
    uint8_t *base;  /* where it is mapped here */
};

struct guest_memory {
    uint64_t limit; /* bytes of all regions together */
    uint64_t total;
    uint32_t regions;
    struct guest_region region[GUEST_REGIONS];
};

/* Map a region of `size` bytes at `offset` of `file`, which stays the caller's. */
enum fault guest_memory_add(struct guest_memory *memory, int file, uint64_t guest, uint64_t user, uint64_t size,
                            uint64_t offset);

/* Unmap everything. */
void guest_memory_clear(struct guest_memory *memory);

/* Where `len` (at least 1) bytes at an address of the front-end are; NULL if they are not in one region. */
void *guest_memory_user(const struct guest_memory *memory, uint64_t user, uint64_t len);

/* Where `len` (at least 1) bytes at a guest-physical address are; NULL if they are not in one region. */
static inline void *guest_memory_at(const struct guest_memory *memory, uint64_t guest, uint64_t len) {
    for (uint32_t i = 0; i < memory->regions; i++) {
        const struct guest_region *region = &memory->region[i];
        uint64_t offset = guest - region->guest; /* wraps to something large for an address below */

        if (offset < region->size && len <= region->size - offset) {
            return region->base + offset;
        }
    }
    return NULL;
}

/* Copy out of memory that the guest can write to meanwhile. The barrier keeps the compiler from reading the guest's
 * memory a second time in place of the copy.
 */
static inline void guest_memory_copy(void *to, const void *from, size_t len) {
    memcpy(to, from, len);
    __asm__ volatile("" : : "r"(to) : "memory");
}

#endif
