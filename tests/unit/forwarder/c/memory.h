/* An endpoint in this process's own memory: frames come from, and go to, another thread. */
#ifndef SALLYPORT_MEMORY_H
#define SALLYPORT_MEMORY_H

#include "../../../../backend/forwarder/core/frame.h"

#define MEMORY_MAX_SLOTS 65536

/* One frame in the memory that both threads share; it belongs to one of them at any time. */
struct memory_slot {
    uint32_t len;
    uint16_t tag_tpid; /* as in struct frame; what the data path sends has its tag in place, and 0 here */
    uint16_t tag_tci;
    struct offload offload;
    uint8_t reserved[2];
    uint8_t bytes[];
};

/* An endpoint with `slots` (1 to MEMORY_MAX_SLOTS) frames of up to `slot_bytes` (1 to FRAME_MAX) bytes each way.
 * NULL and errno (EINVAL, ENOMEM, what eventfd() gives) on failure. It is up from the start.
 */
struct endpoint *memory_open(unsigned slots, unsigned slot_bytes, enum direction from);

bool memory_is(const struct endpoint *endpoint);

/* What follows is the other side's: one thread puts, one thread (the same or another) takes, neither is the data path.
 */

unsigned memory_slot_bytes(const struct endpoint *endpoint);

/* The slot to fill next, NULL if all are in use. memory_put() moves on to the one behind it, memory_publish() gives all
 * that were put to the data path and wakes it if it sleeps.
 */
struct memory_slot *memory_next(struct endpoint *endpoint);
void memory_put(struct endpoint *endpoint);
void memory_publish(struct endpoint *endpoint);

/* The slot that arrived next, NULL if there is none. memory_take() moves on to the one behind it, memory_return() gives
 * all that were taken back to the data path and wakes it if it waits for room.
 */
const struct memory_slot *memory_peek(struct endpoint *endpoint);
void memory_take(struct endpoint *endpoint);
void memory_return(struct endpoint *endpoint);

/* Sleep until a frame has arrived, at most `timeout_ms`. Returns false on timeout or signal. */
bool memory_wait(struct endpoint *endpoint, int timeout_ms);

/* The other side goes away, or comes back: what is sent to it while it is away counts as VERDICT_DOWN. */
void memory_set_up(struct endpoint *endpoint, bool up);

#endif
