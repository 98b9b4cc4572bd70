/* Puts frames into a guest's receive queue. */
#ifndef SALLYPORT_VHOST_PUT_H
#define SALLYPORT_VHOST_PUT_H

#include <linux/virtio_net.h>

#include "frame.h"
#include "vhost_user.h"

#define VHOST_HEADER ((uint32_t)sizeof(struct virtio_net_hdr_mrg_rxbuf)) /* always, with VIRTIO_F_VERSION_1 (5.1.6) */

/* Copy a frame into as many buffers of the receive queue, which is running, as it needs; what the guest did not
 * negotiate is done here: checksums, and cutting GSO frames, for which `segment` is scratch memory. `*most_buffers` is
 * raised to the number of buffers that the frame took. Nothing is published. Returns VERDICT_PASSED, or why the frame
 * is dropped; with VERDICT_DOWN the queue may have a fault.
 */
enum verdict vhost_put(struct vhost_user *device, struct frame *frame, struct frame *segment, uint32_t *most_buffers);

#endif
