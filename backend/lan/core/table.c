#include "table.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#define KEYS 16 /* that are tried before the table is made larger */
#define MIN_BITS 4
#define MAX_BITS 22

enum outcome { PLACED, CROWDED, TWICE };

static enum outcome insert(struct table *table, const struct entry *entry) {
    const struct address address = {.high = entry->high, .low = entry->low, .family = entry->family};
    struct entry *slot = table->entries + (table_place(table, &address) - table->entries);

    for (int i = 0; i < TABLE_PROBES; i++, slot++) {
        if (slot->family == 0) {
            *slot = *entry;
            return PLACED;
        }
        if (slot->high == entry->high && slot->low == entry->low && slot->family == entry->family) {
            return TWICE;
        }
    }
    return CROWDED;
}

static enum outcome fill(struct table *table, size_t bytes, const struct entry *entries, size_t n, size_t *which) {
    /* EINTR cannot come for so few bytes; without random numbers (no such kernel) the keys are merely constant. */
    (void)!getrandom(table->key, sizeof(table->key), 0);
    memset(table->entries, 0, bytes);
    for (size_t i = 0; i < n; i++) {
        enum outcome outcome = insert(table, &entries[i]);

        if (outcome != PLACED) {
            *which = i;
            return outcome;
        }
    }
    return PLACED;
}

struct table *table_build(const struct entry *entries, size_t n, size_t *which) {
    struct table *table = calloc(1, sizeof(*table));
    uint32_t bits = MIN_BITS;

    if (table == NULL) {
        return NULL;
    }
    while ((size_t)1 << bits < 4 * n) {
        bits++;
    }
    for (; n <= TABLE_ENTRIES && bits <= MAX_BITS; bits++) {
        size_t bytes = (((size_t)1 << bits) + TABLE_PROBES) * sizeof(*entries);

        table->shift = 64 - bits;
        table->entries = aligned_alloc(64, (bytes + 63) / 64 * 64);
        if (table->entries == NULL) {
            free(table);
            return NULL;
        }
        for (int i = 0; i < KEYS; i++) {
            enum outcome outcome = fill(table, bytes, entries, n, which);

            if (outcome == PLACED) {
                return table;
            }
            if (outcome == TWICE) {
                table_free(table);
                errno = EEXIST;
                return NULL;
            }
        }
        free(table->entries);
    }
    free(table);
    errno = E2BIG;
    return NULL;
}

void table_free(struct table *table) {
    if (table != NULL) {
        free(table->entries);
        free(table);
    }
}
