#include "offload.h"

#include <endian.h>
#include <netinet/in.h>
#include <string.h>

/* RFC 791, RFC 8200, RFC 9293, RFC 768: offsets in bytes. */
#define IPV4_HEADER 20
#define IPV4_LENGTH 2
#define IPV4_ID 4
#define IPV4_FRAGMENT 6
#define IPV4_PROTOCOL 9
#define IPV4_CHECKSUM 10
#define IPV4_ADDRESSES 12
#define IPV4_FRAGMENTED 0x3fff /* "more fragments", or an offset */
#define IPV6_HEADER 40
#define IPV6_LENGTH 4
#define IPV6_NEXT 6
#define IPV6_ADDRESSES 8
#define TCP_HEADER 20
#define TCP_SEQUENCE 4
#define TCP_OFFSET 12
#define TCP_FLAGS 13
#define TCP_FIN 0x01
#define TCP_PSH 0x08
#define TCP_CWR 0x80
#define TCP_CHECKSUM 16
#define UDP_HEADER 8
#define UDP_CHECKSUM 6
#define MOST_SEGMENTS (65535 / OFFLOAD_MIN_SEGMENT)

/* What the headers of a frame with a TCP or UDP datagram in one piece say; offsets from the frame's start. */
struct headers {
    uint32_t layer3;
    uint32_t layer4;
    uint32_t payload;
    uint32_t end;      /* of the IP datagram; what follows is padding */
    uint32_t checksum; /* offset of the checksum from layer4 */
    bool ipv6;
    bool tcp;
};

/* Bytes of `frame` that may be looked at. */
static uint32_t head_len(const struct frame *frame) {
    size_t len = frame->part[0].iov_len;

    return len < FRAME_HEAD ? (uint32_t)len : FRAME_HEAD;
}

static bool read_headers(const struct frame *frame, struct headers *headers) {
    const uint8_t *head = frame->part[0].iov_base, *ip;
    uint32_t len = head_len(frame);
    struct parsed parsed;
    uint8_t protocol;

    if (policy_parse(head, len, frame_outer_tag(frame), &parsed) != VERDICT_PASSED) {
        return false;
    }
    headers->layer3 = parsed.layer3;
    ip = head + parsed.layer3;
    if (parsed.ethertype == 0x0800 && len >= headers->layer3 + IPV4_HEADER) {
        uint32_t header = 4U * (ip[0] & 15);

        if (ip[0] >> 4 != 4 || header < IPV4_HEADER || policy_be16(ip + IPV4_FRAGMENT) & IPV4_FRAGMENTED) {
            return false;
        }
        headers->ipv6 = false;
        headers->layer4 = headers->layer3 + header;
        headers->end = headers->layer3 + policy_be16(ip + IPV4_LENGTH);
        protocol = ip[IPV4_PROTOCOL];
    } else if (parsed.ethertype == 0x86dd && len >= headers->layer3 + IPV6_HEADER) {
        if (ip[0] >> 4 != 6) {
            return false;
        }
        headers->ipv6 = true;
        headers->layer4 = headers->layer3 + IPV6_HEADER;
        headers->end = headers->layer4 + policy_be16(ip + IPV6_LENGTH);
        protocol = ip[IPV6_NEXT];
    } else {
        return false;
    }
    headers->tcp = protocol == IPPROTO_TCP;
    if (headers->tcp) {
        if (len < headers->layer4 + TCP_HEADER) {
            return false;
        }
        headers->payload = headers->layer4 + 4U * (head[headers->layer4 + TCP_OFFSET] >> 4);
        headers->checksum = TCP_CHECKSUM;
        if (headers->payload < headers->layer4 + TCP_HEADER) {
            return false;
        }
    } else if (protocol == IPPROTO_UDP) {
        headers->payload = headers->layer4 + UDP_HEADER;
        headers->checksum = UDP_CHECKSUM;
    } else {
        return false;
    }
    return headers->payload <= len && headers->payload <= headers->end && headers->end <= frame->len;
}

bool offload_from_guest(struct frame *frame, const struct virtio_net_hdr *asked) {
    const uint8_t *head = frame->part[0].iov_base;
    uint8_t kind = asked->gso_type & (uint8_t)~VIRTIO_NET_HDR_GSO_ECN;
    uint32_t gso_size = le16toh(asked->gso_size), payload;
    struct headers headers;

    frame->offload = (struct offload){0};
    if (!(asked->flags & VIRTIO_NET_HDR_F_NEEDS_CSUM)) {
        /* A segmentation needs it, too (virtio 1.2, 5.1.6.2.1). */
        return asked->gso_type == VIRTIO_NET_HDR_GSO_NONE;
    }
    if (!read_headers(frame, &headers) || le16toh(asked->csum_start) != headers.layer4 ||
        le16toh(asked->csum_offset) != headers.checksum) {
        return false;
    }
    frame->offload.flags = VIRTIO_NET_HDR_F_NEEDS_CSUM;
    frame->offload.csum_start = (uint16_t)headers.layer4;
    frame->offload.csum_offset = (uint16_t)headers.checksum;
    if (asked->gso_type == VIRTIO_NET_HDR_GSO_NONE) {
        return true;
    }
    if (kind != (headers.ipv6 ? VIRTIO_NET_HDR_GSO_TCPV6 : VIRTIO_NET_HDR_GSO_TCPV4) || !headers.tcp ||
        headers.end != frame->len || gso_size == 0) {
        frame->offload = (struct offload){0};
        return false;
    }
    payload = headers.end - headers.payload;
    if (payload <= gso_size) {
        return true; /* one segment: nothing to cut */
    }
    if ((payload + gso_size - 1) / gso_size > MOST_SEGMENTS) {
        frame->offload = (struct offload){0};
        return false;
    }
    frame->offload.gso_type = kind;
    if (head[headers.layer4 + TCP_FLAGS] & TCP_CWR) {
        frame->offload.gso_type |= VIRTIO_NET_HDR_GSO_ECN;
    }
    frame->offload.gso_size = (uint16_t)gso_size;
    frame->offload.hdr_len = (uint16_t)headers.payload;
    return true;
}

void offload_from_kernel(struct frame *frame, const struct virtio_net_hdr *header) {
    struct headers headers;

    frame->offload = (struct offload){
        .flags = header->flags & (VIRTIO_NET_HDR_F_NEEDS_CSUM | VIRTIO_NET_HDR_F_DATA_VALID),
        .gso_type = header->gso_type,
        .hdr_len = le16toh(header->hdr_len),
        .gso_size = le16toh(header->gso_size),
        .csum_start = le16toh(header->csum_start),
        .csum_offset = le16toh(header->csum_offset),
    };
    /* The kernel tells how much of the frame it had in its first buffer, which can be all of it. */
    if (frame->offload.gso_size != 0 && read_headers(frame, &headers)) {
        frame->offload.hdr_len = (uint16_t)headers.payload;
    }
}

void offload_to_header(const struct frame *frame, struct virtio_net_hdr *header) {
    const struct offload *offload = &frame->offload;

    memset(header, 0, sizeof *header);
    header->flags = offload->flags;
    if (offload->flags & VIRTIO_NET_HDR_F_NEEDS_CSUM) {
        header->csum_start = htole16(offload->csum_start);
        header->csum_offset = htole16(offload->csum_offset);
    }
    if (offload->gso_size != 0) {
        header->gso_type = offload->gso_type;
        header->gso_size = htole16(offload->gso_size);
        header->hdr_len = htole16(offload->hdr_len);
    }
}

/* The ones' complement sum (RFC 1071) of big-endian 16-bit words, over pieces of any length. */
struct sum {
    uint64_t total;
    bool odd; /* an odd number of bytes so far */
};

static void sum_bytes(struct sum *sum, const uint8_t *at, size_t len) {
    uint64_t total = 0;
    size_t i = 0;

    if (len > 0 && sum->odd) {
        total += at[i++];
        sum->odd = false;
    }
    for (; i + 8 <= len; i += 8) {
        uint64_t word;

        memcpy(&word, at + i, sizeof word);
        word = be64toh(word);
        total += (word >> 48) + (word >> 32 & 0xffff) + (word >> 16 & 0xffff) + (word & 0xffff);
    }
    for (; i + 2 <= len; i += 2) {
        total += policy_be16(at + i);
    }
    if (i < len) {
        total += (uint64_t)at[i] << 8;
        sum->odd = true;
    }
    sum->total += total;
}

static uint16_t sum_folded(const struct sum *sum) {
    uint64_t total = sum->total;

    while (total >> 16 != 0) {
        total = (total & 0xffff) + (total >> 16);
    }
    return (uint16_t)total;
}

static void put_be16(uint8_t *at, uint32_t value) {
    at[0] = (uint8_t)(value >> 8);
    at[1] = (uint8_t)value;
}

static void put_be32(uint8_t *at, uint32_t value) {
    put_be16(at, value >> 16);
    put_be16(at + 2, value);
}

/* The sum of a frame's parts from byte `start` on. */
static void sum_parts(struct sum *sum, const struct frame *frame, size_t start) {
    for (uint32_t i = 0; i < frame->parts; i++) {
        size_t len = frame->part[i].iov_len;

        if (start >= len) {
            start -= len;
            continue;
        }
        sum_bytes(sum, (const uint8_t *)frame->part[i].iov_base + start, len - start);
        start = 0;
    }
}

/* Store the complement; 0 means "none" in UDP, and its other form is as good in TCP. */
static void put_checksum(uint8_t *at, const struct sum *sum) {
    uint16_t value = (uint16_t)~sum_folded(sum);

    put_be16(at, value == 0 ? 0xffff : value);
}

/* Make part[0] a copy in frame->head, of which there is at least min(len, FRAME_HEAD). */
static bool own_head(struct frame *frame) {
    uint8_t *from = frame->part[0].iov_base;
    size_t len = frame->part[0].iov_len;

    if (from == frame->head) {
        return true;
    }
    if (len > FRAME_HEAD) {
        if (frame->parts == FRAME_PARTS) {
            return false;
        }
        memmove(&frame->part[2], &frame->part[1], (frame->parts - 1) * sizeof frame->part[0]);
        frame->part[1] = (struct iovec){.iov_base = from + FRAME_HEAD, .iov_len = len - FRAME_HEAD};
        frame->parts++;
        len = FRAME_HEAD;
    }
    memcpy(frame->head, from, len);
    frame->part[0] = (struct iovec){.iov_base = frame->head, .iov_len = len};
    return true;
}

bool offload_complete_checksum(struct frame *frame) {
    const struct offload *offload = &frame->offload;
    uint32_t place = (uint32_t)offload->csum_start + offload->csum_offset;
    struct sum sum = {0};

    if (!(offload->flags & VIRTIO_NET_HDR_F_NEEDS_CSUM)) {
        return true;
    }
    if (offload->gso_size != 0 || place + 2 > head_len(frame) || !own_head(frame)) {
        return false;
    }
    /* The sum of the pseudo header stands in the checksum's place already (virtio 1.2, 5.1.6.2). */
    sum_parts(&sum, frame, offload->csum_start);
    put_checksum(frame->head + place, &sum);
    frame->offload.flags &= (uint8_t)~VIRTIO_NET_HDR_F_NEEDS_CSUM;
    return true;
}

/* Let `segment` have `len` bytes of the parts of `frame`, from byte `start` on. */
static bool slice(const struct frame *frame, size_t start, size_t len, struct frame *segment) {
    for (uint32_t i = 0; i < frame->parts && len > 0; i++) {
        size_t have = frame->part[i].iov_len, take;

        if (start >= have) {
            start -= have;
            continue;
        }
        if (segment->parts == FRAME_PARTS) {
            return false;
        }
        take = have - start < len ? have - start : len;
        segment->part[segment->parts++] =
            (struct iovec){.iov_base = (uint8_t *)frame->part[i].iov_base + start, .iov_len = take};
        len -= take;
        start = 0;
    }
    return len == 0;
}

bool offload_segment(const struct frame *frame, uint32_t index, struct frame *segment) {
    uint32_t size = frame->offload.gso_size, offset = index * size, payload, transport;
    uint8_t *ip, *tcp;
    struct headers headers;
    struct sum sum = {0};
    bool last;

    if (size == 0 || !read_headers(frame, &headers) || !headers.tcp || headers.end != frame->len ||
        offset >= headers.end - headers.payload) {
        return false;
    }
    last = headers.end - headers.payload - offset <= size;
    payload = last ? headers.end - headers.payload - offset : size;
    memcpy(segment->head, frame->part[0].iov_base, headers.payload);
    segment->part[0] = (struct iovec){.iov_base = segment->head, .iov_len = headers.payload};
    segment->parts = 1;
    segment->len = headers.payload + payload;
    segment->tag_tpid = frame->tag_tpid;
    segment->tag_tci = frame->tag_tci;
    segment->offload = (struct offload){0};
    if (!slice(frame, headers.payload + offset, payload, segment)) {
        return false;
    }
    ip = segment->head + headers.layer3;
    tcp = segment->head + headers.layer4;
    transport = segment->len - headers.layer4;
    put_be32(tcp + TCP_SEQUENCE, policy_be32(tcp + TCP_SEQUENCE) + offset);
    if (index > 0) {
        tcp[TCP_FLAGS] &= (uint8_t)~TCP_CWR; /* RFC 3168, 6.1.2: once */
    }
    if (!last) {
        tcp[TCP_FLAGS] &= (uint8_t)~(TCP_FIN | TCP_PSH);
    }
    if (headers.ipv6) {
        put_be16(ip + IPV6_LENGTH, transport);
        sum_bytes(&sum, ip + IPV6_ADDRESSES, 32);
    } else {
        struct sum header = {0};

        put_be16(ip + IPV4_LENGTH, segment->len - headers.layer3);
        put_be16(ip + IPV4_ID, policy_be16(ip + IPV4_ID) + index);
        put_be16(ip + IPV4_CHECKSUM, 0);
        sum_bytes(&header, ip, headers.layer4 - headers.layer3);
        put_be16(ip + IPV4_CHECKSUM, (uint16_t)~sum_folded(&header));
        sum_bytes(&sum, ip + IPV4_ADDRESSES, 8);
    }
    sum.total += IPPROTO_TCP + transport;
    put_be16(tcp + TCP_CHECKSUM, 0);
    sum_parts(&sum, segment, headers.layer4);
    put_checksum(tcp + TCP_CHECKSUM, &sum);
    return true;
}
