/* Frames and policies of any kind through policy.h, beside a second opinion.
 *
 * An input is a policy (HEAD bytes, see set_up()) and a frame. The second opinion walks over the frame byte by byte and
 * collects what is wrong with it; it shares no code, no order and no constant with policy.h. The frame lies in memory
 * of exactly its size: what policy.h reads behind it is a crash.
 *
 * The rates are held against arithmetic that cannot overflow: over each stretch of time no more frames pass than the
 * burst and the rate allow.
 */
#include <string.h>

#include "../../backend/forwarder/core/policy.h"
#include "must.h"

#define HEAD 32 /* bytes of an input in front of the frame */
#define TAKES 24

__extension__ typedef unsigned __int128 wide;

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Is it one of the policy's EtherTypes? */
static int listed(const struct policy *policy, unsigned ethertype) {
    for (int i = 0; i < policy->ethertypes; i++) {
        if (policy->ethertype[i] == ethertype) {
            return 1;
        }
    }
    return 0;
}

static int is_tag(const uint8_t *at) {
    static const uint8_t tags[][2] = {{0x81, 0x00}, {0x88, 0xa8}, {0x91, 0x00}, {0x92, 0x00}, {0x93, 0x00}};

    for (unsigned i = 0; i < sizeof tags / sizeof tags[0]; i++) {
        if (memcmp(at, tags[i], 2) == 0) {
            return 1;
        }
    }
    return 0;
}

static int on_link(const struct policy *policy, const uint8_t *frame, size_t at) {
    for (int bit = 0; bit < 32; bit++) {
        int mine = frame[at + (size_t)bit / 8] >> (7 - bit % 8) & 1;

        if (policy->link_mask >> (31 - bit) & 1 && mine != (int)(policy->link_address >> (31 - bit) & 1)) {
            return 0;
        }
    }
    return policy->link_mask != 0;
}

/* All that the frame could be refused for, as a set of verdicts; 0: it may pass. */
static unsigned wrong(const struct policy *policy, int from_vm, const uint8_t *frame, size_t len, uint32_t beside,
                      uint64_t wire_len, unsigned *first) {
    unsigned reasons = 0, tags = beside != 0, free = 0;
    size_t type = 12;

    *first = VERDICTS;
    if (len < 14) {
        *first = VERDICT_RUNT;
        return 1U << VERDICT_RUNT;
    }
    if (beside != 0) {
        free = beside >> 16 == 0x8100 && (beside & 4095) == 0;
    } else if (len >= 18 && memcmp(frame + 12, "\x81\x00", 2) == 0) {
        free = frame[14] % 16 == 0 && frame[15] == 0;
    }
    while (is_tag(frame + type)) {
        tags++;
        type += 4;
        if (type > 20) {
            break;
        }
        if (len < type + 2) {
            *first = VERDICT_RUNT;
            return 1U << VERDICT_RUNT;
        }
    }
    if (tags > 2) {
        *first = VERDICT_TAGS;
        return 1U << VERDICT_TAGS;
    }
    if (tags - free > policy->tags) {
        reasons |= 1U << VERDICT_TAGS;
    }
    if (wire_len > (uint64_t)policy->max_frame + (type - 12)) {
        reasons |= 1U << VERDICT_OVERSIZED;
    }
    if (from_vm) {
        if (memcmp(frame + 6, policy->vm_mac, 6) != 0 || frame[6] % 2 == 1) {
            reasons |= 1U << VERDICT_SPOOFED;
        }
    } else {
        if (memcmp(frame + 6, policy->vm_mac, 6) == 0 || frame[6] % 2 == 1) {
            reasons |= 1U << VERDICT_SPOOFED;
        }
        if (frame[0] % 2 == 0 && memcmp(frame, policy->vm_mac, 6) != 0) {
            reasons |= 1U << VERDICT_DESTINATION;
        }
    }
    if (memcmp(frame, "\x01\x80\xc2\x00\x00", 5) == 0 && frame[5] < 3) {
        reasons |= 1U << VERDICT_DESTINATION;
    }
    if (!listed(policy, (unsigned)frame[type] * 256 + frame[type + 1])) {
        reasons |= 1U << VERDICT_ETHERTYPE;
    }
    if (memcmp(frame + type, "\x08\x00", 2) == 0) {
        if (len < type + 2 + 20) {
            reasons |= 1U << VERDICT_RUNT;
        } else if (on_link(policy, frame, type + 14) || on_link(policy, frame, type + 18)) {
            reasons |= 1U << VERDICT_LINK_ADDRESS;
        }
    }
    if (memcmp(frame + type, "\x08\x06", 2) == 0) {
        if (len < type + 2 + 28) {
            reasons |= 1U << VERDICT_RUNT;
        } else if (on_link(policy, frame, type + 16) || on_link(policy, frame, type + 26)) {
            reasons |= 1U << VERDICT_LINK_ADDRESS;
        }
    }
    return reasons;
}

/* A policy like those that are written, changed by the input: each byte 0 leaves it as it is. */
static struct policy set_up(const uint8_t *head) {
    static const uint16_t known[] = {0x0800, 0x0806, 0x86dd, 0x88cc, 0x8100, 0x0600, 0x0027, 0x0000,
                                     0x0800, 0x0806, 0x86dd, 0x888e, 0x88a8, 0xffff, 0x8847, 0x0801};
    struct policy policy = {.vm_mac = {2, 0, 0, 0, 0, 1},
                            .tags = head[0] % (POLICY_TAGS + 1),
                            .ethertypes = (uint8_t)((head[1] + 3) % (POLICY_ETHERTYPES + 1)),
                            .link_address = 0xa9fe0100,
                            .max_frame = 1514U + (unsigned)(head[2] << 8 | head[3]) % 8000U};
    unsigned bits = (head[4] + 24) % 33;

    policy.link_mask = bits == 0 ? 0 : UINT32_MAX << (32 - bits);
    policy.link_address = (policy.link_address ^ (uint32_t)head[5] << 24 ^ (uint32_t)head[6] << 8) & policy.link_mask;
    for (unsigned i = 0; i < POLICY_ETHERTYPES; i++) {
        policy.ethertype[i] = (uint16_t)(known[i] ^ (i == head[7] % POLICY_ETHERTYPES ? head[8] << 8 | head[9] : 0));
    }
    for (unsigned i = 0; i < 6; i++) {
        policy.vm_mac[i] ^= head[10 + i];
    }
    return policy;
}

static void check_frame(const struct policy *policy, const uint8_t *head, const uint8_t *bytes, size_t size) {
    enum direction from = head[16] & 1 ? FROM_VM : FROM_PORT;
    static const uint32_t tags[] = {0, 0x8100a005, 0x81006000, 0x88a80000};
    uint32_t beside = tags[head[16] >> 1 & 3];
    uint32_t wire_len = (uint32_t)size + (uint32_t)(head[17] << 8 | head[18]);
    uint8_t *frame = malloc(size + (size == 0));
    unsigned reasons, first, verdict;
    struct parsed parsed;

    must(frame != NULL);
    memcpy(frame, bytes, size);
    verdict = policy_check(policy, from, frame, (uint32_t)size, beside, wire_len, &parsed);
    must(verdict < VERDICTS);
    reasons = wrong(policy, from == FROM_VM, frame, size, beside, wire_len, &first);
    if (first != VERDICTS) {
        must(verdict == first);
    } else if (verdict == VERDICT_PASSED) {
        must(reasons == 0);
        must(parsed.group == (frame[0] & 1));
    } else {
        must(reasons >> verdict & 1);
    }
    free(frame);
}

static void check_rate(const uint8_t *head) {
    uint64_t cost = (uint64_t)(head[20] << 8 | head[21]) * 1000, burst = cost * (1 + head[22] % 32);
    const struct limit limit = {.cost_ns = cost, .burst_ns = burst};
    uint64_t now = 1 + (uint64_t)head[23] * 1000000007U, full_at = 0, when[TAKES], taken[TAKES];

    for (unsigned i = 0; i < TAKES; i++) {
        uint32_t frames = 1 + head[24 + i % 8] % 64;
        uint64_t next = limit_take(&limit, full_at, now, frames);

        must(cost != 0 || next != 0);
        when[i] = now;
        taken[i] = next == 0 ? 0 : frames;
        full_at = next == 0 ? full_at : next;
        now += (uint64_t)head[24 + (i * 5 + 3) % 8] << (head[24 + (i + 1) % 8] % 24);
    }
    for (unsigned i = 0; i < TAKES && cost != 0; i++) {
        wide sum = 0;

        for (unsigned j = i; j < TAKES; j++) {
            sum += taken[j];
            must(sum * cost <= (wide)burst + (when[j] - when[i]));
        }
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct policy policy;

    if (size < HEAD) {
        return 0;
    }
    policy = set_up(data);
    check_frame(&policy, data, data + HEAD, size - HEAD);
    check_rate(data);
    return 0;
}
