#include "guest_memory.h"

#include <fcntl.h>
#include <linux/magic.h>
#include <stdbool.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

static bool overlaps(uint64_t a, uint64_t b, uint64_t a_size, uint64_t b_size) {
    return a < b + b_size && b < a + a_size;
}

static bool sealed(int file) {
    struct statfs system;
    int seals = fcntl(file, F_GET_SEALS);

    return seals >= 0 && seals & F_SEAL_SHRINK && fstatfs(file, &system) == 0 && system.f_type == TMPFS_MAGIC;
}

enum fault guest_memory_add(struct guest_memory *memory, int file, uint64_t guest, uint64_t user, uint64_t size,
                            uint64_t offset) {
    const uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);
    struct stat status;
    void *base;

    if (memory->regions >= GUEST_REGIONS || size > memory->limit - memory->total) {
        return FAULT_MEMORY_LIMIT;
    }
    /* `end` of the address space included: a region may not touch it, so that sums never wrap to 0. */
    if (size == 0 || size % page != 0 || offset % page != 0 || guest % page != 0 || user % page != 0 ||
        guest >= UINT64_MAX - size || user >= UINT64_MAX - size || offset >= (uint64_t)INT64_MAX - size) {
        return FAULT_MEMORY_RANGE;
    }
    for (uint32_t i = 0; i < memory->regions; i++) {
        const struct guest_region *other = &memory->region[i];

        if (overlaps(guest, other->guest, size, other->size) || overlaps(user, other->user, size, other->size)) {
            return FAULT_MEMORY_RANGE;
        }
    }
    if (!sealed(file)) {
        return FAULT_MEMORY_SEAL;
    }
    if (fstat(file, &status) != 0 || status.st_size < 0 || offset + size > (uint64_t)status.st_size) {
        return FAULT_MEMORY_RANGE;
    }
    base = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, file, (off_t)offset);
    if (base == MAP_FAILED) {
        return FAULT_MEMORY_MAP;
    }
    /* Neither in a core dump nor in a child. */
    (void)madvise(base, size, MADV_DONTDUMP);
    (void)madvise(base, size, MADV_DONTFORK);
    memory->region[memory->regions++] = (struct guest_region){.guest = guest, .user = user, .size = size, .base = base};
    memory->total += size;
    return FAULT_NONE;
}

void guest_memory_clear(struct guest_memory *memory) {
    for (uint32_t i = 0; i < memory->regions; i++) {
        munmap(memory->region[i].base, memory->region[i].size);
    }
    memory->regions = 0;
    memory->total = 0;
}

void *guest_memory_user(const struct guest_memory *memory, uint64_t user, uint64_t len) {
    for (uint32_t i = 0; i < memory->regions; i++) {
        const struct guest_region *region = &memory->region[i];
        uint64_t offset = user - region->user;

        if (offset < region->size && len <= region->size - offset) {
            return region->base + offset;
        }
    }
    return NULL;
}
