/* The policy of the management port: which frame may pass, and the counters that tell why one did not.
 *
 * Theory of operation. This file is compiled twice, into the process (datapath `ring`) and into the tc-BPF
 * program (datapath `kernel`), so that both decide alike; it therefore holds only static inline functions over
 * fixed-size data, no loop without a constant bound, no library call. All that a decision depends on lies in the first
 * POLICY_HEAD bytes of a frame. The caller must own that memory: what a guest can still write to after it was checked
 * was not checked.
 *
 * Numbers in structures are in host byte order; bytes of frames are read by shifts, so alignment does not matter.
 */
#ifndef SALLYPORT_POLICY_H
#define SALLYPORT_POLICY_H

#ifdef __bpf__
#include <linux/types.h>
typedef __u8 uint8_t;
typedef __u16 uint16_t;
typedef __u32 uint32_t;
typedef __u64 uint64_t;
#else
#include <stdint.h>
#endif

#define POLICY_HEAD 64 /* bytes: two tags (8), Ethernet (14), ARP (28) or the fixed IPv4 header (20), rounded up */
#define POLICY_ETHERTYPES 16
#define POLICY_TAGS 2   /* 802.1ad: a service tag and a customer tag */
#define POLICY_ETHER 14 /* bytes of an Ethernet header (IEEE 802.3) */
#define POLICY_TAG 4    /* bytes of a VLAN tag (IEEE 802.1Q) */

/* SO_MARK of the sending sockets and skb->mark of what the tc-BPF program redirects: "port" in ASCII. The rules of the
 * port's egress hook let out what carries it, and drop all that the host's own stack might say (port.nft).
 */
#define POLICY_MARK 0x706f7274

enum direction { FROM_PORT, FROM_VM, DIRECTIONS };

/* What became of a frame. The names that people see are in counters.py, in this order. */
enum verdict {
    VERDICT_PASSED,
    VERDICT_RUNT,      /* too short for its own headers */
    VERDICT_OVERSIZED, /* longer than the policy allows */
    VERDICT_TAGS,      /* more VLAN tags than the policy allows, or than POLICY_TAGS with a priority tag */
    VERDICT_SPOOFED, /* from the VM: not its address; from the port: the VM's address, or a group address, as source */
    VERDICT_DESTINATION,  /* from the port: a single station's address that is not the VM's; or a group that no bridge
                             forwards: see policy_stays_on_the_wire() */
    VERDICT_ETHERTYPE,    /* not on the allow-list */
    VERDICT_LINK_ADDRESS, /* ARP or IPv4 with an address of the link to the backend */
    VERDICT_RATE,         /* over the direction's rate */
    VERDICT_GROUP_RATE,   /* over the direction's rate of broadcast and multicast */
    VERDICT_OFFLOAD,      /* asks for a checksum or a segmentation that the frame's own headers do not bear out */
    VERDICT_NO_BUFFER,    /* the receiver gave no buffer for it */
    VERDICT_DOWN,         /* the receiver is not there */
    VERDICT_FAILED,       /* the kernel did not take it */
    VERDICTS
};

struct limit {
    uint64_t cost_ns;  /* one frame's share of a second; 0: no limit */
    uint64_t burst_ns; /* how far ahead of the clock a burst may get; at least cost_ns */
};

struct policy {
    uint8_t vm_mac[6];
    uint8_t tags;       /* most VLAN tags, 0 to POLICY_TAGS */
    uint8_t ethertypes; /* how many of ethertype[] are valid */
    uint16_t ethertype[POLICY_ETHERTYPES];
    uint32_t link_address; /* IPv4 network that must not appear on the port */
    uint32_t link_mask;    /* 0: none */
    uint32_t max_frame;    /* bytes of a frame on the wire, Ethernet header included, tags and FCS not */
    uint32_t reserved;
    struct limit rate[DIRECTIONS];
    struct limit group_rate[DIRECTIONS];
};

struct counter {
    uint64_t frames;
    uint64_t bytes;
};

struct counters {
    struct counter verdict[DIRECTIONS][VERDICTS];
};

/* What the headers of a frame say. */
struct parsed {
    uint16_t ethertype; /* behind all tags; a value below 0x600 is a length (IEEE 802.3) */
    uint8_t tags;       /* VLAN tags, the one out of band included, but for a priority tag in front */
    uint8_t layer3;     /* offset of what follows the EtherType, in the bytes given */
    uint8_t group;      /* the destination is a group address */
};

#define POLICY_INLINE static inline __attribute__((always_inline))

POLICY_INLINE uint16_t policy_be16(const uint8_t *at) {
    return (uint16_t)(at[0] << 8 | at[1]);
}

POLICY_INLINE uint32_t policy_be32(const uint8_t *at) {
    return (uint32_t)at[0] << 24 | (uint32_t)at[1] << 16 | (uint32_t)at[2] << 8 | at[3];
}

POLICY_INLINE int policy_same_mac(const uint8_t *a, const uint8_t *b) {
    return ((a[0] ^ b[0]) | (a[1] ^ b[1]) | (a[2] ^ b[2]) | (a[3] ^ b[3]) | (a[4] ^ b[4]) | (a[5] ^ b[5])) == 0;
}

/* 1 if they are equal, else 0, without a branch: the BPF verifier follows each branch of a comparison of its own, and
 * the list of EtherTypes would be more branches than it is willing to follow.
 */
POLICY_INLINE uint32_t policy_equal(uint16_t a, uint16_t b) {
    uint32_t difference = (uint32_t)(a ^ b);

#ifdef __bpf__
    __asm__ volatile("" : "+r"(difference)); /* or the compiler makes a branch of it again */
#endif
    return (difference - 1) >> 31;
}

POLICY_INLINE int policy_is_tag(uint16_t ethertype) {
    /* 802.1Q, 802.1ad, and the three numbers that stacked tags had before it. */
    return ethertype == 0x8100 || ethertype == 0x88a8 || ethertype == 0x9100 || ethertype == 0x9200 ||
           ethertype == 0x9300;
}

/* The TPID and TCI of a priority tag (IEEE 802.1Q, 3.184 and 6.9.1): VLAN 0, so the frame is untagged and tells nothing
 * but its priority. Industrial networks send them, and every end station takes them for untagged: Linux drops the tag
 * (net/core/dev.c, __netif_receive_skb_core()). Only C-tags, and only in front: no end station is sent another.
 */
POLICY_INLINE uint8_t policy_is_priority(uint32_t tag) {
    return (tag & 0xffff0fffU) == 0x81000000U;
}

/* Groups whose frames end at the next station, whatever is in them: spanning tree, pause, slow protocols. The kernel's
 * bridge cannot be told to forward them (IEEE 802.1Q, table 8-1; net/bridge, BR_GROUPFWD_RESTRICTED), so no datapath
 * does.
 */
POLICY_INLINE int policy_stays_on_the_wire(const uint8_t *mac) {
    return policy_be32(mac) == 0x0180c200U && mac[4] == 0 && mac[5] <= 2;
}

POLICY_INLINE int policy_in_link(const struct policy *policy, const uint8_t *address) {
    return policy->link_mask != 0 && (policy_be32(address) & policy->link_mask) == policy->link_address;
}

/* Read the headers. `head` holds POLICY_HEAD readable bytes, of which the first `len` are the frame's.
 * `outer_tag` is a tag that the kernel took out of the frame and keeps beside it, TPID and TCI as on the wire; 0: none.
 * Returns VERDICT_PASSED, VERDICT_RUNT or VERDICT_TAGS.
 */
POLICY_INLINE enum verdict policy_parse(const uint8_t *head, uint32_t len, uint32_t outer_tag, struct parsed *parsed) {
    uint8_t priority = policy_is_priority(outer_tag);

    parsed->tags = outer_tag != 0;
    parsed->layer3 = POLICY_ETHER;
    parsed->ethertype = 0;
    parsed->group = 0;
    if (len < POLICY_ETHER) {
        return VERDICT_RUNT;
    }
    parsed->group = head[0] & 1;
    parsed->ethertype = policy_be16(head + 12);
    if (policy_is_tag(parsed->ethertype)) {
        if (len < POLICY_ETHER + POLICY_TAG) {
            return VERDICT_RUNT;
        }
        if (outer_tag == 0) {
            priority = policy_is_priority(policy_be32(head + 12));
        }
        parsed->tags++;
        parsed->layer3 = POLICY_ETHER + POLICY_TAG;
        parsed->ethertype = policy_be16(head + 16);
        if (policy_is_tag(parsed->ethertype)) {
            if (len < POLICY_ETHER + 2 * POLICY_TAG) {
                return VERDICT_RUNT;
            }
            parsed->tags++;
            parsed->layer3 = POLICY_ETHER + 2 * POLICY_TAG;
            parsed->ethertype = policy_be16(head + 20);
        }
    }
    /* A third one, or a second behind one out of band. */
    if (parsed->tags > POLICY_TAGS || policy_is_tag(parsed->ethertype)) {
        return VERDICT_TAGS;
    }
    parsed->tags = (uint8_t)(parsed->tags - priority);
    return VERDICT_PASSED;
}

/* ARP and IPv4 must not name the link's network; `at` is layer 3, `len` how many bytes there are. */
POLICY_INLINE enum verdict policy_addresses(const struct policy *policy, uint16_t ethertype, const uint8_t *at,
                                            uint32_t len) {
    if (ethertype == 0x0800) {
        if (len < 20) {
            return VERDICT_RUNT;
        }
        if (policy_in_link(policy, at + 12) || policy_in_link(policy, at + 16)) {
            return VERDICT_LINK_ADDRESS;
        }
    } else if (ethertype == 0x0806) {
        if (len < 28) {
            return VERDICT_RUNT;
        }
        if (policy_in_link(policy, at + 14) || policy_in_link(policy, at + 24)) {
            return VERDICT_LINK_ADDRESS;
        }
    }
    return VERDICT_PASSED;
}

/* May this frame pass, rates aside? The arguments are those of policy_parse(), and `wire_len`, the length of the whole
 * frame (of each of its segments, if it is to be cut) in bytes, without a tag that is out of band.
 */
POLICY_INLINE enum verdict policy_check(const struct policy *policy, enum direction from, const uint8_t *head,
                                        uint32_t len, uint32_t outer_tag, uint32_t wire_len, struct parsed *parsed) {
    enum verdict verdict = policy_parse(head, len, outer_tag, parsed);
    uint32_t known = 0;

    if (verdict != VERDICT_PASSED) {
        return verdict;
    }
    if (parsed->tags > policy->tags) {
        return VERDICT_TAGS;
    }
    /* Tags do not count. */
    if (wire_len > policy->max_frame + (uint32_t)(parsed->layer3 - POLICY_ETHER)) {
        return VERDICT_OVERSIZED;
    }
    if (policy_same_mac(head + 6, policy->vm_mac) != (from == FROM_VM) || (head[6] & 1)) {
        return VERDICT_SPOOFED;
    }
    if (policy_stays_on_the_wire(head) ||
        (from == FROM_PORT && !parsed->group && !policy_same_mac(head, policy->vm_mac))) {
        return VERDICT_DESTINATION;
    }
    for (uint32_t i = 0; i < POLICY_ETHERTYPES; i++) {
        known |= policy_equal(policy->ethertype[i], parsed->ethertype) & (i - policy->ethertypes) >> 31;
    }
    if (!known) {
        return VERDICT_ETHERTYPE;
    }
    /* Three constant offsets rather than a variable one: the BPF verifier follows them. */
    switch (parsed->layer3) {
    case POLICY_ETHER:
        return policy_addresses(policy, parsed->ethertype, head + POLICY_ETHER, len - POLICY_ETHER);
    case POLICY_ETHER + POLICY_TAG:
        return policy_addresses(policy, parsed->ethertype, head + POLICY_ETHER + POLICY_TAG,
                                len - POLICY_ETHER - POLICY_TAG);
    default:
        return policy_addresses(policy, parsed->ethertype, head + POLICY_ETHER + 2 * POLICY_TAG,
                                len - POLICY_ETHER - 2 * POLICY_TAG);
    }
}

/* Token bucket as the generic cell rate algorithm (ITU-T I.371): `full_at` is the time at which the bucket would be
 * full again, one number instead of a level and a time. Returns the new value, or 0 when `frames` are too many.
 */
POLICY_INLINE uint64_t limit_take(const struct limit *limit, uint64_t full_at, uint64_t now_ns, uint32_t frames) {
    uint64_t from = full_at > now_ns ? full_at : now_ns;
    uint64_t to = from + limit->cost_ns * frames;

    return to - now_ns > limit->burst_ns ? 0 : to;
}

/* The same for a bucket that one thread has for itself: takes `frames` out of it and returns 1, or returns 0 if they
 * are too many.
 */
POLICY_INLINE int limit_spend(const struct limit *limit, uint64_t *full_at, uint64_t now_ns, uint32_t frames) {
    uint64_t next = limit_take(limit, *full_at, now_ns, frames);

    if (next == 0) {
        return 0;
    }
    *full_at = next;
    return 1;
}

#endif
