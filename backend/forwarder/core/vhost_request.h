/* What a front-end may ask of a vhost-user NIC, and what is done about it (QEMU: docs/interop/vhost-user). */
#ifndef SALLYPORT_VHOST_REQUEST_H
#define SALLYPORT_VHOST_REQUEST_H

#include "vhost_user.h"

/* Act on a message that was read whole, and answer it. File descriptors that are kept are taken out of it. Returns
 * FAULT_NONE, or why the front-end is to be dropped.
 */
enum fault vhost_request_handle(struct vhost_user *device, struct vhost_message *message);

#endif
