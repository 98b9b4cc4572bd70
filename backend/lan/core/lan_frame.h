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

/* Read a frame of at most `max_frame` bytes on the wire, Ethernet header included. Fills in everything of `look` but
 * the places and the verdict; returns VERDICT_PASSED if such a frame may pass between the addresses that it names.
 */
enum verdict lan_frame_read(struct lan_look *look, const struct frame *frame, uint32_t max_frame);

/* The address that the neighbour advertisement in `head`, for which lan_frame_read() set `claims`, is about. */
struct address lan_frame_claimed(const uint8_t *head);

#endif
