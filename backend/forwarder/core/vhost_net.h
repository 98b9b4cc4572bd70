/* Endpoint over a vhost-user NIC: a guest's receive queue is where frames go, its transmit queue where they come from.
 *
 * Theory of operation. A frame from the guest stays in its memory until release(), but for its virtio header and its
 * first FRAME_HEAD bytes: those are copied out before anything looks at them. A frame to the guest is copied once, into
 * one buffer or (VIRTIO_NET_F_MRG_RXBUF) as many as it needs; buffers that were begun are taken back when they do not
 * suffice. Used entries are published once for each batch, and the guest is interrupted at most once for it.
 *
 * Room is told in frames, buffers are what the guest gives: how many buffers a frame takes is learned from the frames
 * that went by, quickly up and slowly down.
 */
#ifndef SALLYPORT_VHOST_NET_H
#define SALLYPORT_VHOST_NET_H

#include "frame.h"
#include "vhost_user.h"

/* An endpoint that serves the listening unix socket `listener` (its own from then on). A front-end may hand over
 * `max_memory` bytes of guest memory. Returns NULL with errno set if there is no memory.
 */
struct endpoint *vhost_net_open(int listener, uint64_t max_memory, bool offload, enum direction from);

/* The device of such an endpoint; NULL for one of another kind. */
struct vhost_user *vhost_net_device(struct endpoint *endpoint);

#endif
