/* What the BPF programs of kernel.bpf.c and their loader, kernel_module.c, share: the layout of the programs' memory.
 */
#ifndef SALLYPORT_KERNEL_H
#define SALLYPORT_KERNEL_H

#include "../core/policy.h"

/* skb->mark of every frame that a program lets through: "port" in ASCII. A netfilter egress chain (family netdev) on
 * port and tap with default drop lets out what carries it, and so nothing that did not come through here. Frames arrive
 * with mark 0, and neither a wire nor a guest can set one. (A kernel with tc actions does not ask that chain after a
 * redirect from tc at all, NETFILTER_SKIP_EGRESS; one without them does.)
 */
#define KERNEL_MARK POLICY_MARK

/* Most CPUs; the loader refuses a machine with more. 448 bytes of counters each. */
#define KERNEL_CPUS 256

#define KERNEL_LINE 64 /* bytes of a cache line, so that CPUs do not take it from each other */

/* .rodata: written by the loader before the verifier sees the programs, never after. */
struct settings {
    struct policy policy;
    uint32_t target[DIRECTIONS]; /* interface index that frames of each direction go to */
};

/* .bss: written by the programs, mapped read-only by the loader. */
struct memory {
    struct counters counters[KERNEL_CPUS];
    struct {
        uint64_t rate; /* full_at of limit_take() */
        uint64_t group_rate;
        uint64_t rest[KERNEL_LINE / sizeof(uint64_t) - 2];
    } buckets[DIRECTIONS];
};

#endif
