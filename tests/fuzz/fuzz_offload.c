/* What a guest asks a network card to do, and whether it is done right.
 *
 * An input is HEAD bytes that choose (see struct choice), then bytes of a frame. In most inputs the frame is built from
 * the choice, so that its headers are right, and the input's bytes are laid over it; a virtio header that agrees with
 * it is changed by the input as well. The frame lies in parts of exactly their size.
 *
 * What must hold: work that was accepted lies within the frame; segments are no longer than was asked, their payloads
 * make up the frame's, and lengths, sequence numbers, flags and checksums of each are right, by sums made here in
 * another way; a completed checksum is right; nothing but the frame's own copy of its head was written to.
 */
#include <endian.h>
#include <string.h>

#include "../../backend/forwarder/core/offload.h"
#include "must.h"

#define HEAD 24

struct choice {
    uint8_t build;   /* bits 0-1: raw, TCP, TCP, UDP; 2: IPv6; 3-4: tags within; 5: one beside; 6: padding; 7: kernel */
    uint8_t options; /* 32-bit words of IPv4 options (low 4 bits) and TCP options (high) */
    uint16_t payload; /* bytes */
    uint8_t split;    /* of the parts behind the first */
    uint8_t flags;    /* changes to the virtio header, all: exclusive or */
    uint8_t gso_type;
    uint8_t tcp_flags;
    uint16_t gso_size; /* this and the following: little-endian */
    uint16_t csum_start;
    uint16_t csum_offset;
    uint16_t hdr_len;
    uint16_t lay_at; /* where the input's bytes are laid over the frame */
    uint8_t seed;    /* of the payload */
    uint8_t first;   /* bytes of part 0 beyond the least */
    uint8_t reserved[4];
};

_Static_assert(sizeof(struct choice) == HEAD, "as the seeds are made");

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static uint8_t whole[FRAME_MAX]; /* the frame in one piece */
static uint32_t whole_len;

static uint32_t be16(const uint8_t *at) {
    return (uint32_t)at[0] * 256 + at[1];
}

static void put16(uint8_t *at, uint32_t value) {
    at[0] = (uint8_t)(value >> 8);
    at[1] = (uint8_t)value;
}

/* RFC 1071 word by word, folded at once. */
static uint32_t add(uint32_t sum, const uint8_t *at, uint32_t len) {
    for (uint32_t i = 0; i < len; i++) {
        sum += i % 2 == 0 ? (uint32_t)at[i] << 8 : at[i];
        sum = (sum & 0xffff) + (sum >> 16);
    }
    return sum;
}

/* The sum of the pseudo header (RFC 9293, 3.1; RFC 8200, 8.1). */
static uint32_t pseudo(const uint8_t *ip, uint32_t protocol, uint32_t len) {
    uint8_t tail[4] = {0, (uint8_t)protocol};

    put16(tail + 2, len & 0xffff);
    return add(ip[0] >> 4 == 6 ? add(0, ip + 8, 32) : add(0, ip + 12, 8), tail, 4);
}

/* Build the frame; returns what a right header says of it. */
static struct virtio_net_hdr build(const struct choice *choice) {
    static const uint8_t macs[12] = {2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2};
    unsigned kind = choice->build & 3, six = choice->build >> 2 & 1, tags = choice->build >> 3 & 3;
    uint32_t ip_options = six ? 0 : (choice->options & 15) % 11 * 4U, options = (choice->options >> 4) % 11 * 4U;
    uint32_t layer3, layer4, at, len, payload;
    struct virtio_net_hdr header = {0};
    uint8_t *ip;

    memset(whole, 0, 256);
    memcpy(whole, macs, sizeof macs);
    for (layer3 = 12; tags > 0; tags--, layer3 += 4) {
        put16(whole + layer3, tags == 2 ? 0x88a8 : 0x8100);
        whole[layer3 + 3] = (uint8_t)tags;
    }
    put16(whole + layer3, six ? 0x86dd : 0x0800);
    layer3 += 2;
    ip = whole + layer3;
    layer4 = layer3 + (six ? 40 : 20 + ip_options);
    at = layer4 + (kind == 3 ? 8 : 20 + options);
    payload = choice->payload;
    payload = payload < 65535U - (at - layer3) ? payload : 65535U - (at - layer3);
    payload = payload < FRAME_MAX - at ? payload : FRAME_MAX - at;
    for (uint32_t i = 0; i < payload; i++) {
        whole[at + i] = (uint8_t)(i * 7 + choice->seed + i / 251);
    }
    len = at + payload;
    if (six) {
        ip[0] = 0x60;
        put16(ip + 4, len - layer4);
        ip[6] = kind == 3 ? 17 : 6;
        ip[7] = 64;
        memset(ip + 8, 0xfd, 32);
    } else {
        ip[0] = (uint8_t)(0x45 + ip_options / 4);
        put16(ip + 2, len - layer3);
        put16(ip + 4, 0xfffe);
        ip[8] = 64;
        ip[9] = kind == 3 ? 17 : 6;
        memcpy(ip + 12, "\x0a\x00\x00\x01\x0a\x00\x00\x02", 8);
    }
    if (kind == 3) {
        put16(whole + layer4 + 4, len - layer4);
        put16(whole + layer4 + 6, pseudo(ip, 17, len - layer4));
    } else {
        memcpy(whole + layer4 + 4, "\xff\xff\xff\x00", 4);
        whole[layer4 + 12] = (uint8_t)((20 + options) / 4 << 4);
        whole[layer4 + 13] = 0x10 ^ choice->tcp_flags;
        put16(whole + layer4 + 16, pseudo(ip, 6, len - layer4));
    }
    whole_len = len;
    if (choice->build & 64 && len + 9 <= FRAME_MAX) {
        memset(whole + len, 0, 9);
        whole_len += 9;
    }
    header.flags = VIRTIO_NET_HDR_F_NEEDS_CSUM;
    header.csum_start = (uint16_t)layer4;
    header.csum_offset = kind == 3 ? 6 : 16;
    if (kind != 3) {
        header.gso_type = six ? VIRTIO_NET_HDR_GSO_TCPV6 : VIRTIO_NET_HDR_GSO_TCPV4;
        header.gso_size = 1448;
        header.hdr_len = (uint16_t)at;
    }
    return header;
}

/* Give the frame its parts, each of memory of its own. */
static void take_apart(struct frame *frame, const struct choice *choice) {
    uint32_t at = 0, len = whole_len < FRAME_HEAD ? whole_len : FRAME_HEAD;

    frame->len = whole_len;
    len = whole_len - len > choice->first ? len + choice->first : whole_len;
    while (frame->parts == 0 || at < whole_len) {
        uint8_t *bytes;

        if (frame->parts == FRAME_PARTS - 1) {
            len = whole_len - at;
        }
        bytes = malloc(len + (len == 0));
        must(bytes != NULL);
        memcpy(bytes, whole + at, len);
        frame->part[frame->parts++] = (struct iovec){.iov_base = bytes, .iov_len = len};
        at += len;
        len = 1 + choice->split * 16U * frame->parts;
        len = len < whole_len - at ? len : whole_len - at;
    }
}

static uint32_t put_together(const struct frame *frame, uint8_t *to) {
    uint32_t len = 0;

    must(frame->parts >= 1 && frame->parts <= FRAME_PARTS);
    for (uint32_t i = 0; i < frame->parts; i++) {
        must(frame->part[i].iov_len <= FRAME_MAX - len);
        memcpy(to + len, frame->part[i].iov_base, frame->part[i].iov_len);
        len += (uint32_t)frame->part[i].iov_len;
    }
    must(len == frame->len);
    return len;
}

/* Where the IP header is, by the tags in front of it. */
static uint32_t layer3_of(const uint8_t *bytes) {
    uint32_t at = 12;

    while (be16(bytes + at) != 0x0800 && be16(bytes + at) != 0x86dd) {
        must(at < 20);
        at += 4;
    }
    return at + 2;
}

/* Do the frame's own headers say that a TCP or UDP datagram, in one piece, has its checksum where it was accepted? */
static void check_place(const struct offload *offload) {
    uint32_t layer3 = layer3_of(whole), layer4, end;
    const uint8_t *ip = whole + layer3;

    if (be16(ip - 2) == 0x0800) {
        layer4 = layer3 + (ip[0] & 15U) * 4;
        end = layer3 + be16(ip + 2);
        must(ip[0] >> 4 == 4 && (be16(ip + 6) & 0x3fff) == 0);
        must(offload->csum_offset == (ip[9] == 6 ? 16 : 6) && (ip[9] == 6 || ip[9] == 17));
    } else {
        layer4 = layer3 + 40;
        end = layer4 + be16(ip + 4);
        must(ip[0] >> 4 == 6);
        must(offload->csum_offset == (ip[6] == 6 ? 16 : 6) && (ip[6] == 6 || ip[6] == 17));
    }
    must(offload->csum_start == layer4 && layer4 + offload->csum_offset + 2U <= end && end <= whole_len);
}

static void check_segments(const struct frame *frame) {
    static struct frame segment;
    static uint8_t piece[FRAME_MAX], guarded[FRAME_HEAD];
    uint32_t segments = frame_segments(frame), head = frame->offload.hdr_len, size = frame->offload.gso_size;
    uint32_t layer3 = layer3_of(whole), layer4 = frame->offload.csum_start, done = head;

    must(head <= FRAME_HEAD && head < whole_len && size > 0 && segments >= 2);
    must(frame_wire_len(frame) == head + size);
    memcpy(guarded, frame->part[0].iov_base, FRAME_HEAD < frame->part[0].iov_len ? FRAME_HEAD : frame->part[0].iov_len);
    for (uint32_t i = 0; i < segments; i++) {
        uint8_t *ip = piece + layer3, *tcp = piece + layer4, flags = whole[layer4 + 13];
        uint32_t len, payload = whole_len - done < size ? whole_len - done : size, sequence;

        if (!offload_segment(frame, i, &segment)) {
            must(frame->parts >= FRAME_PARTS - 1); /* the one that it has no list entries for */
            return;
        }
        len = put_together(&segment, piece);
        must(len == head + payload && segment.offload.flags == 0 && segment.offload.gso_size == 0);
        must(segment.part[0].iov_base == segment.head && segment.tag_tpid == frame->tag_tpid);
        must(segment.part[0].iov_len == head);
        must(memcmp(piece + head, whole + done, payload) == 0);
        must(memcmp(piece, whole, layer3) == 0 && memcmp(tcp, whole + layer4, 4) == 0);
        sequence = (be16(tcp + 4) << 16 | be16(tcp + 6)) - (be16(whole + layer4 + 4) << 16 | be16(whole + layer4 + 6));
        must(sequence == done - head);
        flags &= i == 0 ? 0xff : 0x7f;
        flags &= i + 1 == segments ? 0xff : 0xf6;
        must(tcp[13] == flags && memcmp(tcp + 18, whole + layer4 + 18, head - layer4 - 18) == 0);
        if (ip[0] >> 4 == 4) {
            must(be16(ip + 2) == len - layer3 && add(0, ip, layer4 - layer3) == 0xffff);
            must(((be16(ip + 4) - be16(whole + layer3 + 4)) & 0xffff) == i);
        } else {
            must(be16(ip + 4) == len - layer4);
        }
        must(add(pseudo(ip, 6, len - layer4), tcp, len - layer4) == 0xffff);
        done += payload;
    }
    must(done == whole_len);
    must(!offload_segment(frame, segments, &segment));
    must(memcmp(guarded, frame->part[0].iov_base,
                FRAME_HEAD < frame->part[0].iov_len ? FRAME_HEAD : frame->part[0].iov_len) == 0);
}

static void check_checksum(struct frame *frame) {
    static uint8_t after[FRAME_MAX];
    uint32_t start = frame->offload.csum_start, place = start + frame->offload.csum_offset, sum;

    if (!offload_complete_checksum(frame)) {
        /* The head, too, must be memory of our own, and takes one more part for that. */
        must(frame->parts == FRAME_PARTS);
        return;
    }
    if (place == 0) { /* nothing was asked for */
        must(put_together(frame, after) == whole_len && memcmp(after, whole, whole_len) == 0);
        return;
    }
    must(place + 2 <= whole_len && frame->offload.flags == 0);
    must(put_together(frame, after) == whole_len);
    sum = 0xffff & ~add(0, whole + start, whole_len - start);
    must(be16(after + place) == (sum == 0 ? 0xffff : sum));
    put16(after + place, be16(whole + place));
    must(memcmp(after, whole, whole_len) == 0);
}

/* The kernel is believed, but nothing it says may lead out of the frame. */
static void check_kernel(struct frame *frame, const struct virtio_net_hdr *header) {
    static struct frame segment;
    static uint8_t piece[FRAME_MAX];
    uint32_t segments;

    offload_from_kernel(frame, header);
    segments = frame_segments(frame);
    for (uint32_t i = 0; i < segments && i < 300 && frame->offload.gso_size != 0; i++) {
        if (offload_segment(frame, i, &segment)) {
            must(put_together(&segment, piece) <= frame->len);
        }
    }
    if (offload_complete_checksum(frame)) {
        must(put_together(frame, piece) == whole_len);
    }
}

static void check_guest(struct frame *frame, const struct virtio_net_hdr *asked) {
    struct virtio_net_hdr header;

    if (!offload_from_guest(frame, asked)) {
        must(frame->offload.flags == 0 && frame->offload.gso_size == 0);
        return;
    }
    offload_to_header(frame, &header);
    if (asked->flags & VIRTIO_NET_HDR_F_NEEDS_CSUM) {
        must(frame->offload.flags == VIRTIO_NET_HDR_F_NEEDS_CSUM);
        must(header.csum_start == asked->csum_start && header.csum_offset == asked->csum_offset);
        check_place(&frame->offload);
    } else {
        must(frame->offload.flags == 0);
    }
    if (frame->offload.gso_size != 0) {
        must(header.gso_size == asked->gso_size && header.hdr_len <= FRAME_HEAD);
        must((header.gso_type & 0x7f) == (asked->gso_type & 0x7f));
        check_segments(frame);
    } else {
        must(header.gso_type == VIRTIO_NET_HDR_GSO_NONE && frame_segments(frame) == 1);
        check_checksum(frame);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct virtio_net_hdr header = {0};
    static struct frame frame;
    void *memory[FRAME_PARTS];
    struct choice choice;
    uint32_t parts;

    if (size < HEAD) {
        return 0;
    }
    memcpy(&choice, data, sizeof choice);
    data += HEAD;
    size -= HEAD;
    if ((choice.build & 3) != 0) {
        uint32_t at;

        header = build(&choice);
        at = choice.lay_at % whole_len;
        size = size < whole_len - at ? size : whole_len - at;
        for (size_t i = 0; i < size; i++) {
            whole[at + i] ^= data[i];
        }
    } else {
        whole_len = (uint32_t)(size < FRAME_MAX ? size : FRAME_MAX);
        memcpy(whole, data, whole_len);
        if (whole_len < POLICY_ETHER) {
            return 0;
        }
    }
    header.flags ^= choice.flags;
    header.gso_type ^= choice.gso_type;
    header.hdr_len = (uint16_t)(header.hdr_len ^ choice.hdr_len);
    header.gso_size = (uint16_t)(header.gso_size ^ choice.gso_size);
    header.csum_start = (uint16_t)(header.csum_start ^ choice.csum_start);
    header.csum_offset = (uint16_t)(header.csum_offset ^ choice.csum_offset);
    frame.parts = 0;
    frame.tag_tpid = choice.build & 32 ? 0x8100 : 0;
    frame.tag_tci = 7;
    take_apart(&frame, &choice);
    parts = frame.parts;
    for (uint32_t i = 0; i < parts; i++) {
        memory[i] = frame.part[i].iov_base;
    }
    if (choice.build & 128) {
        check_kernel(&frame, &header);
    } else {
        check_guest(&frame, &header);
    }
    for (uint32_t i = 0; i < parts; i++) {
        free(memory[i]);
    }
    return 0;
}
