/* The datapath `kernel`: the forwarder as two tc programs, one at ingress of the port and one at ingress of the VM's
 * tap.
 *
 * Theory of operation. Each frame that arrives at either interface is judged by policy.h, as in the process, and is
 * then redirected to the other interface or dropped. No frame is ever passed on (TCX_NEXT, TC_ACT_OK), so the host's
 * own stack receives nothing from the port or the tap while the programs are attached; the links that attach them
 * belong to the process, so they are gone when it is, and then nothing forwards frames: the port is closed.
 *
 * The programs need no BTF of the kernel: all that they use is the context that the kernel gives to tc programs, and
 * helpers. They are written so that the verifier takes them without CAP_PERFMON, which makes it stricter.
 *
 * A VLAN tag that the kernel took out of the frame (skb->vlan_tci) travels beside it and is put back at egress by the
 * kernel, or by the receiving card; tags further in are bytes of the frame. Checksums and segmentation that a sender
 * left to a network card travel with it as well, and the kernel does them at egress if the target cannot. What the VM
 * may ask for by them is bounded here: see segments() and request_is_harmless().
 */
#include <linux/bpf.h>
#include <linux/pkt_cls.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "kernel.h"

#define ETHERTYPE_IPV4 0x0800
#define ETHERTYPE_IPV6 0x86dd
#define PROTOCOL_TCP 6 /* IANA protocol numbers */
#define PROTOCOL_UDP 17
#define ADDRESSES_IPV4 20 /* bytes of layer 3 that policy_addresses() looks at */
#define ADDRESSES_ARP 28

#define HEAD 56 /* bytes that policy.h looks at, tags, Ethernet and ARP, rounded up; at most POLICY_HEAD */

#define MIN_SEGMENT 256 /* OFFLOAD_MIN_SEGMENT of ../core/offload.h, which cannot be compiled for BPF */

#define REFUSED (-22) /* EINVAL, of a helper */

/* Each failed compare-and-swap means that another CPU took a token within these few nanoseconds. */
#define BUCKET_TRIES 8

const volatile struct settings settings;

/* Counters by CPU, without atomics: the kernel runs tc programs with bottom halves disabled, so no other run of either
 * program begins on a CPU before this one has ended (redirects are carried out after it). On a PREEMPT_RT kernel a
 * count may be lost, never a frame. A reader on another CPU sees whole 64-bit numbers.
 */
struct memory memory __attribute__((aligned(KERNEL_LINE)));

static __always_inline void count(struct __sk_buff *skb, enum direction from, enum verdict verdict, uint32_t bytes) {
    volatile uint32_t *scratch = &skb->cb[0];
    uint32_t cpu = bpf_get_smp_processor_id() & (KERNEL_CPUS - 1), index;
    struct counter *counter;

    /* Without CAP_PERFMON the verifier wants an addition to a pointer to have the same range whichever way led to it
     * (it guards them against speculation). So it must not know the verdict of each way: it forgets what is stored in
     * the frame's control block.
     */
    *scratch = (uint32_t)verdict;
    index = *scratch & 15;
    _Static_assert(VERDICTS <= 16, "the mask above");
    counter = &memory.counters[cpu].verdict[from][index];
    counter->frames++;
    counter->bytes += bytes;
}

/* Take `frames` tokens from a bucket that all CPUs share. When every try failed the frame is dropped: then so many
 * frames arrive at once that a refusal is the lesser harm, while letting it pass would be a way around the limit.
 */
static __always_inline int bucket_take(const struct limit *limit, uint64_t *full_at, uint32_t frames) {
    uint64_t now_ns;

    if (limit->cost_ns == 0) {
        return 1;
    }
    now_ns = bpf_ktime_get_ns();
    for (int i = 0; i < BUCKET_TRIES; i++) {
        uint64_t seen = *(volatile uint64_t *)full_at;
        uint64_t next = limit_take(limit, seen, now_ns, frames);

        if (next == 0) {
            return 0;
        }
        if (__sync_val_compare_and_swap(full_at, seen, next) == seen) {
            return 1;
        }
    }
    return 0;
}

/* Into how many frames is a GSO frame to be cut, and how long is each on the wire? The kernel's own number of
 * segments is 0 for those of a guest, so both come from the headers. TCP or UDP right behind IPv4 or IPv6 is what the
 * datapath `ring` and a tap can hand on; of the VM, segments so small that one frame would become hundreds are refused
 * as well.
 */
static __always_inline enum verdict segments(struct __sk_buff *skb, enum direction from, const struct parsed *parsed,
                                             uint32_t *frames, uint32_t *wire_len) {
    uint32_t size = skb->gso_size, len = skb->len, at = parsed->layer3, given = skb->gso_segs;
    uint8_t ip[20], offset, protocol;

    if ((from == FROM_VM && size < MIN_SEGMENT) || bpf_skb_load_bytes(skb, at, ip, sizeof ip) != 0) {
        return VERDICT_OFFLOAD;
    }
    if (parsed->ethertype == ETHERTYPE_IPV4) {
        protocol = ip[9];
        at += (ip[0] & 15U) * 4;
    } else if (parsed->ethertype == ETHERTYPE_IPV6) {
        protocol = ip[6];
        at += 40;
    } else {
        return VERDICT_OFFLOAD;
    }
    if (protocol == PROTOCOL_UDP) {
        at += 8;
    } else if (protocol == PROTOCOL_TCP && bpf_skb_load_bytes(skb, at + 12, &offset, 1) == 0) {
        at += (offset >> 4) * 4U;
    } else {
        return VERDICT_OFFLOAD;
    }
    if (at >= len) {
        return VERDICT_OFFLOAD;
    }
    *frames = (len - at + size - 1) / size;
    if (*frames < given) {
        *frames = given;
    }
    *wire_len = at + size;
    return VERDICT_PASSED;
}

/* May the checksum that a guest asks for be written where it asks for it? With the virtio header a guest names any two
 * bytes of its frame (csum_start + csum_offset), and the kernel stores a sum of bytes of the guest's choice there
 * *after* this program has run: a judged address could become another one. The context does not show that request, but
 * two helpers behave by it, in every kernel that has tcx:
 *
 *   - bpf_l4_csum_replace() leaves a sum alone if the whole checksum is still to be computed (CHECKSUM_PARTIAL), and
 *     changes it otherwise. Any two bytes will do for "a sum"; they are put back.
 *   - bpf_skb_change_tail() refuses a length that would cut off the checksum's place (net/core/filter.c,
 *     __bpf_skb_min_len()). So a refusal of `judged` + 1 bytes says that both bytes lie behind the first `judged`. If
 *     it is not refused the frame is cut short; it is to be dropped anyway.
 */
static __always_inline int request_is_harmless(struct __sk_buff *skb, const uint8_t *head, uint32_t judged) {
    uint8_t sum[2];

    if (bpf_l4_csum_replace(skb, 0, 0, 1, sizeof sum) != 0 || bpf_skb_load_bytes(skb, 0, sum, sizeof sum) != 0) {
        return 0;
    }
    if (sum[0] != head[0] || sum[1] != head[1]) {
        return bpf_skb_store_bytes(skb, 0, head, sizeof sum, 0) == 0;
    }
    return bpf_skb_change_tail(skb, judged + 1, 0) == REFUSED;
}

/* The bytes of a frame that policy.h looks at, and zeros behind a shorter one's end. Without CAP_PERFMON each first
 * store to a word of the stack costs a fence, as much time as ten other instructions; what a helper writes does not.
 * So only the shortest frames have the zeros.
 */
static __always_inline int load_head(struct __sk_buff *skb, uint8_t *head, uint32_t have) {
    if (have == HEAD) {
        return bpf_skb_load_bytes(skb, 0, head, HEAD) == 0;
    }
    __builtin_memset(head, 0, HEAD);
    return bpf_skb_load_bytes(skb, 0, head, have) == 0;
}

static __always_inline enum verdict judge(struct __sk_buff *skb, enum direction from, const struct settings *set,
                                          uint32_t len) {
    const struct policy *policy = &set->policy;
    uint8_t head[POLICY_HEAD] __attribute__((aligned(8)));
    uint32_t outer_tag = skb->vlan_present ? bpf_ntohs(skb->vlan_proto) << 16 | (skb->vlan_tci & 0xffff) : 0;
    uint32_t have = len < HEAD ? len : HEAD, frames = 1, wire_len = len, judged;
    struct parsed parsed;
    enum verdict verdict;

    if (have < POLICY_ETHER) {
        return VERDICT_RUNT;
    }
    if (!load_head(skb, head, have)) {
        return VERDICT_FAILED;
    }
    if (skb->gso_size != 0 && policy_parse(head, have, outer_tag, &parsed) == VERDICT_PASSED) {
        verdict = segments(skb, from, &parsed, &frames, &wire_len);
        if (verdict != VERDICT_PASSED) {
            return verdict;
        }
    }
    verdict = policy_check(policy, from, head, have, outer_tag, wire_len, &parsed);
    if (verdict != VERDICT_PASSED) {
        return verdict;
    }
    if (from == FROM_VM) {
        judged = parsed.layer3;
        if (parsed.ethertype == ETHERTYPE_IPV4) {
            judged += ADDRESSES_IPV4;
        } else if (parsed.ethertype == 0x0806) {
            judged += ADDRESSES_ARP;
        }
        if (!request_is_harmless(skb, head, judged)) {
            return VERDICT_OFFLOAD;
        }
    }
    /* In this order, so that a flood of broadcasts does not use up the rate of all frames. */
    if (parsed.group && !bucket_take(&policy->group_rate[from], &memory.buckets[from].group_rate, frames)) {
        return VERDICT_GROUP_RATE;
    }
    if (!bucket_take(&policy->rate[from], &memory.buckets[from].rate, frames)) {
        return VERDICT_RATE;
    }
    return VERDICT_PASSED;
}

static __always_inline int forward(struct __sk_buff *skb, enum direction from) {
    const struct settings *set = (const struct settings *)&settings;
    uint32_t len = skb->len;
    enum verdict verdict;

    /* The loader fills in what the compiler believes to be zero: it must not know where this pointer comes from. */
    __asm__ volatile("" : "+r"(set));
    verdict = judge(skb, from, set, len);
    count(skb, from, verdict, len);
    if (verdict != VERDICT_PASSED) {
        return TC_ACT_SHOT;
    }
    skb->mark = KERNEL_MARK;
    return (int)bpf_redirect(set->target[from], 0);
}

SEC("tc")
int from_port(struct __sk_buff *skb) {
    return forward(skb, FROM_PORT);
}

SEC("tc")
int from_vm(struct __sk_buff *skb) {
    return forward(skb, FROM_VM);
}

/* No helper that is for GPL-compatible programs only. */
const char programs_license[] SEC("license") = "Apache-2.0";
