#include "say_any.h"

#include <string.h>

#include "files.h"

static struct say_region region_of(unsigned kind, uint64_t e) {
    static const struct say_region honest[2] = {{GUEST_0, REGION_BYTES, USER_0, 0},
                                                {GUEST_1, REGION_BYTES, USER_1, REGION_BYTES}};
    struct say_region region = honest[kind & 1];

    switch (kind >> 1 & 7) {
    case 0:
    case 1:
    case 2:
        break;
    case 3:
        region.size = e;
        break;
    case 4:
        region.guest = e;
        break;
    case 5:
        region.user = e;
        break;
    case 6:
        region.offset = e;
        break;
    case 7:
        region = (struct say_region){
            .guest = (e & 0xff) * PAGE, .size = PAGE, .user = USER_0 + (e >> 8 & 0xff) * PAGE, .offset = e >> 16};
        break;
    }
    return region;
}

void front_end_say_any(const struct front_end *front_end, const struct record *record) {
    static const uint8_t requests[] = {1, 2, 3, 4, 5, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 0, 6, 20, 24, 37};
    uint32_t request = requests[record->a % sizeof requests], flags = VHOST_VERSION, len = 0, n = 0;
    uint32_t ring = record->c & 3;
    uint8_t bytes[sizeof(struct say_regions)] = {0};
    int files[MAX_FILES];

    switch (request) {
    case SAY_SET_FEATURES:
    case SAY_SET_PROTOCOL_FEATURES:
    case SAY_SEND_RARP:
    case 0:
        len = 8;
        memcpy(bytes, &record->e, len);
        break;
    case SAY_SET_MEM_TABLE: {
        struct say_regions regions = {.regions = record->d % (GUEST_REGIONS + 3)};

        n = regions.regions < GUEST_REGIONS + 2 ? regions.regions : GUEST_REGIONS + 2;
        for (uint32_t i = 0; i < n; i++) {
            regions.region[i] = region_of((record->c >> 2 & 15) ^ i, record->e + (uint64_t)i * (record->d >> 8));
        }
        len = 8 + n * (uint32_t)sizeof(struct say_region);
        memcpy(bytes, &regions, len);
        break;
    }
    case SAY_SET_VRING_NUM:
    case SAY_SET_VRING_BASE:
    case SAY_GET_VRING_BASE:
    case SAY_SET_VRING_ENABLE:
        len = 8;
        memcpy(bytes, &ring, 4);
        memcpy(bytes + 4, &record->d, 4);
        break;
    case SAY_SET_VRING_ADDR: {
        struct say_addresses addresses = {.index = ring,
                                          .flags = record->c >> 7,
                                          .table = USER_0 + TABLE_AT(ring & 1),
                                          .used = USER_0 + USED_AT(ring & 1),
                                          .available = USER_0 + AVAILABLE_AT(ring & 1)};

        addresses.table += record->c & 16 ? record->e : 0;
        addresses.used += record->c & 32 ? record->e : 0;
        addresses.available += record->c & 64 ? record->e : 0;
        len = sizeof addresses;
        memcpy(bytes, &addresses, len);
        break;
    }
    case SAY_SET_VRING_KICK:
    case SAY_SET_VRING_CALL:
    case SAY_SET_VRING_ERR: {
        uint64_t word = ring | (record->c & 4 ? 1U << 8 : 0) | (record->c & 8 ? record->e : 0);

        n = record->c & 4 ? 0 : 1;
        len = 8;
        memcpy(bytes, &word, len);
        break;
    }
    default:
        break;
    }
    flags |= record->b & 1 ? VHOST_NEED_REPLY : 0;
    flags ^= record->b & 2 ? record->d : 0;
    if (record->b & 4) {
        len = record->d % (sizeof(struct say_regions) + 1);
    }
    if (record->b & 128) {
        n = record->d % (MAX_FILES + 1);
    }
    for (uint32_t i = 0; i < n; i++) {
        unsigned kind = record->b >> 3 & 15;

        files[i] = files_new(kind != 0 || request == SAY_SET_VRING_KICK || request == SAY_SET_VRING_CALL ? kind : 15,
                             front_end->file);
    }
    files_close(say(front_end->connection, request, flags, bytes, len, files, n), files, n);
}
