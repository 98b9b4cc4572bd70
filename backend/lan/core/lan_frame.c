/* Which addresses a frame names, and whether such a frame may be in the guest LAN at all.
 *
 * Router advertisements and redirects are refused: guests are no routers to each other. The datagrams of neighbour
 * discovery count only with a hop limit of 255 (RFC 4861, 6.1 and 8.1), so one with this hop limit that hides what it
 * is behind extension headers (RFC 7113) is refused likewise.
 */
#include "lan_frame.h"

#include <string.h>

#define IPV4 0x0800 /* IANA, IEEE 802 Numbers */
#define ARP 0x0806
#define IPV6 0x86dd

#define IPV4_HEADER 20 /* RFC 791, 3.1 */
#define IPV6_HEADER 40 /* RFC 8200, 3 */
#define ARP_MESSAGE 28 /* RFC 826, for Ethernet and IPv4 */
#define ND_MESSAGE 24  /* RFC 4861, 4.3 and 4.4: up to and with the target address */

#define ICMPV6 58
#define ROUTER_ADVERTISEMENT 134 /* RFC 4861, 4.2 to 4.5 */
#define NEIGHBOUR_SOLICITATION 135
#define NEIGHBOUR_ADVERTISEMENT 136
#define REDIRECT 137

static const uint8_t broadcast[6] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff};

/* `at` is layer 3, `have` how many of its bytes can be read, `len` how many the frame has. */
static enum verdict read_ipv4(struct lan_look *look, const uint8_t *at, uint32_t have, uint32_t len) {
    uint32_t header;

    if (have < IPV4_HEADER) {
        return VERDICT_RUNT;
    }
    header = (at[0] & 15U) * 4;
    if (at[0] >> 4 != 4 || header < IPV4_HEADER || policy_be16(at + 2) < header || policy_be16(at + 2) > len) {
        return VERDICT_RUNT;
    }
    look->source = table_ipv4(at + 12);
    look->destination = table_ipv4(at + 16);
    return VERDICT_PASSED;
}

static enum verdict read_arp(struct lan_look *look, const uint8_t *at, uint32_t have) {
    /* Ethernet, IPv4, their lengths; then the operation, of which there are request (1) and reply (2). */
    static const uint8_t kind[7] = {0, 1, 8, 0, 6, 4, 0};

    if (have < ARP_MESSAGE) {
        return VERDICT_RUNT;
    }
    if (memcmp(at, kind, sizeof(kind)) != 0 || (at[7] != 1 && at[7] != 2)) {
        return VERDICT_ETHERTYPE;
    }
    if (!policy_same_mac(at + 8, look->head + 6)) {
        return VERDICT_SPOOFED;
    }
    look->source = table_ipv4(at + 14);
    look->destination = table_ipv4(at + 24);
    if (look->source.low == 0) {
        look->source = look->destination; /* a probe, which is a claim (RFC 5227, 2.1.1) */
    }
    look->asks = at[7] == 1 && policy_same_mac(look->head, broadcast);
    return VERDICT_PASSED;
}

static bool is_extension(uint8_t next_header) {
    /* IANA, IPv6 Extension Header Types; encrypted payload (50) is not read by anybody without its key. */
    return next_header == 0 || next_header == 43 || next_header == 44 || next_header == 51 || next_header == 60 ||
           next_header == 135 || next_header == 139 || next_header == 140 || next_header >= 253;
}

/* Is the datagram sent to the solicited-node group of its target, by the group's MAC (RFC 4291, 2.7.1; RFC 2464, 7)? */
static bool to_solicited_node(const uint8_t *mac, const uint8_t *destination, const uint8_t *target) {
    static const uint8_t prefix[13] = {0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff};

    return memcmp(destination, prefix, sizeof(prefix)) == 0 && memcmp(destination + 13, target + 13, 3) == 0 &&
           mac[0] == 0x33 && mac[1] == 0x33 && memcmp(mac + 2, destination + 12, 4) == 0;
}

/* What a datagram with a hop limit of 255 may be to its receiver: neighbour discovery. */
static enum verdict read_nd(struct lan_look *look, const uint8_t *at, uint32_t have) {
    const uint8_t *message = at + IPV6_HEADER;
    uint8_t type;

    if (is_extension(at[6])) {
        return VERDICT_SPOOFED;
    }
    if (at[6] != ICMPV6) {
        return VERDICT_PASSED;
    }
    if (have < IPV6_HEADER + 1) {
        return VERDICT_RUNT;
    }
    type = message[0];
    if (type == ROUTER_ADVERTISEMENT || type == REDIRECT) {
        return VERDICT_SPOOFED;
    }
    if (type != NEIGHBOUR_SOLICITATION && type != NEIGHBOUR_ADVERTISEMENT) {
        return VERDICT_PASSED;
    }
    if (have < IPV6_HEADER + ND_MESSAGE || policy_be16(at + 4) < ND_MESSAGE) {
        return VERDICT_RUNT;
    }
    if (type == NEIGHBOUR_ADVERTISEMENT) {
        look->claims = true;
    } else if (to_solicited_node(look->head, at + 24, message + 8)) {
        look->destination = table_ipv6(message + 8);
        if ((look->source.high | look->source.low) == 0) {
            look->source = look->destination; /* so is duplicate address detection (RFC 4862, 5.4.2) */
        }
        look->asks = true;
    }
    return VERDICT_PASSED;
}

static enum verdict read_ipv6(struct lan_look *look, const uint8_t *at, uint32_t have, uint32_t len) {
    if (have < IPV6_HEADER || at[0] >> 4 != 6 || policy_be16(at + 4) > len - IPV6_HEADER) {
        return VERDICT_RUNT;
    }
    look->source = table_ipv6(at + 8);
    look->destination = table_ipv6(at + 24);
    return at[7] == 255 ? read_nd(look, at, have) : VERDICT_PASSED;
}

static enum verdict read_frame(struct lan_look *look, const struct frame *frame, uint32_t max_frame) {
    uint32_t have = (uint32_t)frame->part[0].iov_len;
    const uint8_t *at;
    uint32_t len;

    look->head = frame->part[0].iov_base;
    look->asks = look->claims = false;
    if (frame->parts == 0 || have < POLICY_ETHER || frame->len < have) {
        return VERDICT_RUNT;
    }
    if (frame->tag_tpid != 0) {
        return VERDICT_TAGS;
    }
    if (frame_wire_len(frame) > max_frame) {
        return VERDICT_OVERSIZED;
    }
    look->group = (look->head[0] & 1) != 0;
    at = look->head + POLICY_ETHER;
    have -= POLICY_ETHER;
    len = frame->len - POLICY_ETHER;
    switch (policy_be16(look->head + 12)) {
    case IPV4:
        return read_ipv4(look, at, have, len);
    case IPV6:
        return read_ipv6(look, at, have, len);
    case ARP:
        return read_arp(look, at, have);
    default:
        return policy_is_tag(policy_be16(look->head + 12)) ? VERDICT_TAGS : VERDICT_ETHERTYPE;
    }
}

void lan_frame_read(struct lan_look *looks, const struct frame *frames, unsigned n, uint32_t max_frame,
                    const struct table *table) {
    for (unsigned i = 0; i < n; i++) {
        __builtin_prefetch(frames[i].part[0].iov_base);
    }
    for (unsigned i = 0; i < n; i++) {
        struct lan_look *look = &looks[i];

        look->verdict = read_frame(look, &frames[i], max_frame);
        if (look->verdict == VERDICT_PASSED) {
            look->source_place = table_place(table, &look->source);
            look->destination_place = table_place(table, &look->destination);
            __builtin_prefetch(look->source_place);
            __builtin_prefetch(look->destination_place);
        }
    }
}

struct address lan_frame_claimed(const uint8_t *head) {
    return table_ipv6(head + POLICY_ETHER + IPV6_HEADER + 8);
}
