#include "records.h"

#include <stddef.h>
#include <string.h>

#define SIZE sizeof(struct record)

size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t most);
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t most, unsigned seed);

static uint32_t random_below(unsigned *state, size_t limit) {
    *state = *state * 1664525U + 1013904223U; /* Numerical Recipes' generator */
    return (uint32_t)((*state >> 8) % limit);
}

/* Let `room` whole records be free before record `index`. */
static void move(uint8_t *data, size_t records, size_t index) {
    memmove(data + (index + 1) * SIZE, data + index * SIZE, (records - index) * SIZE);
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t most, unsigned seed) {
    size_t records = size / SIZE, limit = most / SIZE, from, to;
    unsigned state = seed;
    uint8_t kept[SIZE];

    if (limit == 0 || random_below(&state, 8) == 0) {
        return LLVMFuzzerMutate(data, size, most);
    }
    limit = limit < MAX_RECORDS ? limit : MAX_RECORDS;
    if (records > limit) {
        records = limit;
    }
    if (records == 0) {
        memset(data, 0, SIZE);
        records = 1;
    }
    from = random_below(&state, records);
    to = random_below(&state, records + 1);
    memcpy(kept, data + from * SIZE, SIZE);
    switch (random_below(&state, 8)) {
    case 0: /* one more, a copy of another */
        if (records < limit) {
            move(data, records, to);
            memcpy(data + to * SIZE, kept, SIZE);
            records++;
        }
        break;
    case 1: /* one more, new */
        if (records < limit) {
            move(data, records, to);
            memset(data + to * SIZE, 0, SIZE);
            data[to * SIZE] = (uint8_t)random_below(&state, 32);
            (void)LLVMFuzzerMutate(data + to * SIZE + 1, SIZE - 1, SIZE - 1);
            records++;
        }
        break;
    case 2: /* one less */
        if (records > 1) {
            memmove(data + from * SIZE, data + (from + 1) * SIZE, (records - from - 1) * SIZE);
            records--;
        }
        break;
    case 3: /* two change places */
        to = to < records ? to : 0;
        memcpy(data + from * SIZE, data + to * SIZE, SIZE);
        memcpy(data + to * SIZE, kept, SIZE);
        break;
    case 4: /* one does something else */
        data[from * SIZE] = (uint8_t)random_below(&state, 32);
        break;
    default: /* the arguments of one */
        (void)LLVMFuzzerMutate(data + from * SIZE + 1, SIZE - 1, SIZE - 1);
        break;
    }
    return records * SIZE;
}
