/* Why a vhost-user port was stopped. Everything here is a front-end's or a guest's doing. */
#ifndef SALLYPORT_VHOST_FAULT_H
#define SALLYPORT_VHOST_FAULT_H

/* X(number, name, sentence) */
#define VHOST_FAULTS(X)                                                                                                \
    X(FAULT_NONE, "none", "no fault")                                                                                  \
    X(FAULT_SOCKET, "socket", "the connection failed, or the front-end does not read its replies")                     \
    X(FAULT_MESSAGE, "message", "a message with a wrong header: version, flags, or a reply where a request belongs")   \
    X(FAULT_REQUEST, "request", "a request that is unknown or was not offered")                                        \
    X(FAULT_SIZE, "size", "a message whose size is not that of its request")                                           \
    X(FAULT_DESCRIPTORS, "descriptors", "a message with the wrong number of file descriptors")                         \
    X(FAULT_ORDER, "order", "a message that is not allowed in this state")                                             \
    X(FAULT_FEATURES, "features", "features that were not offered")                                                    \
    X(FAULT_LEGACY, "legacy", "the guest's NIC is not of virtio 1 (QEMU: virtio-mmio.force-legacy=off)")               \
    X(FAULT_MEMORY_SEAL, "memory_seal", "guest memory that is not a memfd sealed against shrinking")                   \
    X(FAULT_MEMORY_RANGE, "memory_range", "a memory region that is empty, wraps, overlaps, or leaves its file")        \
    X(FAULT_MEMORY_LIMIT, "memory_limit", "more memory or regions than allowed")                                       \
    X(FAULT_MEMORY_MAP, "memory_map", "guest memory that the kernel does not map")                                     \
    X(FAULT_QUEUE, "queue", "a queue that does not exist")                                                             \
    X(FAULT_QUEUE_SIZE, "queue_size", "a queue size that is no power of two or too large")                             \
    X(FAULT_QUEUE_ADDRESS, "queue_address", "a ring outside the guest's memory, or not aligned")                       \
    X(FAULT_QUEUE_EVENT, "queue_event", "a kick or call file descriptor that is no eventfd")                           \
    X(FAULT_AVAILABLE, "available", "an index of the available ring that is too far ahead")                            \
    X(FAULT_CHAIN_INDEX, "chain_index", "a descriptor index outside the table")                                        \
    X(FAULT_CHAIN_LOOP, "chain_loop", "a descriptor chain that is longer than its table")                              \
    X(FAULT_CHAIN_INDIRECT, "chain_indirect", "an indirect table that is nested, chained, empty, or not negotiated")   \
    X(FAULT_CHAIN_DIRECTION, "chain_direction", "a buffer of the wrong direction")                                     \
    X(FAULT_CHAIN_LENGTH, "chain_length", "an empty buffer, or one without room for the header")                       \
    X(FAULT_CHAIN_ADDRESS, "chain_address", "a buffer outside the guest's memory, or across two regions")

#define VHOST_FAULT_NUMBER(number, name, sentence) number,
enum fault { VHOST_FAULTS(VHOST_FAULT_NUMBER) FAULTS };
#undef VHOST_FAULT_NUMBER

/* The name and the sentence of a fault. */
const char *vhost_fault_name(enum fault fault);
const char *vhost_fault_sentence(enum fault fault);

#endif
