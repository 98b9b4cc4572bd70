/* The provisioned table of the guest LAN: from an IP address to the virtual NIC that owns it.
 *
 * Theory of operation. A table is built once and never changed; a new one takes its place. Open addressing with linear
 * probing, at most a quarter full. The entries come from the host, the addresses that are looked up from guests: what a
 * hostile lookup can cost is therefore known when the table is built, and building retries with other random keys, then
 * with more room, until no entry lies more than TABLE_PROBES slots from its place. A lookup reads no more than that.
 */
#ifndef SALLYPORT_TABLE_H
#define SALLYPORT_TABLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "../../forwarder/core/policy.h"

#define TABLE_ENTRIES 65536
#define TABLE_PROBES 8

struct address {
    uint64_t high; /* IPv6: the first eight bytes; IPv4: 0 */
    uint64_t low;
    uint8_t family; /* 4 or 6; 0: an empty slot */
};

struct entry {
    uint64_t high;
    uint64_t low;
    uint8_t family;
    uint8_t port;
    uint8_t mac[6];
    uint8_t padding[8]; /* two to a cache line, none across two */
};

struct table {
    uint64_t key[2];
    uint32_t shift;        /* the hash's upper bits are the place */
    struct entry *entries; /* TABLE_PROBES more than there are places, so that no probe wraps around */
};

static inline uint64_t table_be64(const uint8_t *at) {
    return (uint64_t)policy_be32(at) << 32 | policy_be32(at + 4);
}

static inline struct address table_ipv4(const uint8_t *at) {
    return (struct address){.low = policy_be32(at), .family = 4};
}

static inline struct address table_ipv6(const uint8_t *at) {
    return (struct address){.high = table_be64(at), .low = table_be64(at + 8), .family = 6};
}

/* Where an address may lie. The multipliers are 2^64 divided by the golden ratio, and the one of MurmurHash3's finish.
 */
static inline const struct entry *table_place(const struct table *table, const struct address *address) {
    uint64_t hash = (address->high ^ table->key[0]) * 0x9e3779b97f4a7c15U;

    hash ^= hash >> 32;
    hash = (hash ^ address->low ^ table->key[1]) * 0xff51afd7ed558ccdU;
    hash ^= hash >> 32;
    hash *= 0x9e3779b97f4a7c15U;
    return table->entries + (hash >> table->shift);
}

/* The entry of an address, given its place; NULL if nobody owns it. */
static inline const struct entry *table_find(const struct entry *place, const struct address *address) {
    for (int i = 0; i < TABLE_PROBES && place->family != 0; i++, place++) {
        if (place->low == address->low && place->high == address->high && place->family == address->family) {
            return place;
        }
    }
    return NULL;
}

/* A table of `n` entries (at most TABLE_ENTRIES), NULL and errno (EEXIST: an address twice, whose index is then in
 * `*which`; E2BIG, ENOMEM) on failure.
 */
struct table *table_build(const struct entry *entries, size_t n, size_t *which);
void table_free(struct table *table);

#endif
