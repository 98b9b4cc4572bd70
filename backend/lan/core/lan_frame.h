/* What a frame in the guest LAN says: its addresses, and what it asks for or claims. */
#ifndef SALLYPORT_LAN_FRAME_H
#define SALLYPORT_LAN_FRAME_H

#include "../../forwarder/core/frame.h"
#include "table.h"

/* What a frame says, read in the first pass over a batch. */
struct lan_look {
    const uint8_t *head;
    struct address source;
    struct address destination;
    const struct entry *source_place;
    const struct entry *destination_place;
    enum verdict verdict;
    bool group;  /* the destination is a group address */
    bool asks;   /* ... and may be: an ARP request, a neighbour solicitation */
    bool claims; /* a neighbour advertisement: its target, too, must be the sender's */
};

/* Read `n` frames, each of at most `max_frame` bytes on the wire, Ethernet header included. The verdict of one that may
 * pass between the addresses that it names is VERDICT_PASSED, and the table's slots for both are on their way into the
 * cache.
 */
void lan_frame_read(struct lan_look *looks, const struct frame *frames, unsigned n, uint32_t max_frame,
                    const struct table *table);

/* The address that the neighbour advertisement in `head`, for which lan_frame_read() set `claims`, is about. */
struct address lan_frame_claimed(const uint8_t *head);

#endif
