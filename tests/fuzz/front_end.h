/* What the vhost-user targets share: an endpoint, and a front-end with a guest that talks to it, all in this process.
 *
 * Theory of operation. The guest's memory is one memfd; the front-end maps all of it, the endpoint gets two regions of
 * it that touch neither each other nor the file's end. Every mapping that the endpoint makes lies between two pages
 * that nobody may touch (link with FRONT_END_WRAP, see run.py): one byte beyond a region is a crash, whatever else the
 * process has mapped. What the endpoint left behind is looked for with the kernel's help: a file that is still mapped
 * writable cannot be sealed against writing (fcntl(2), F_SEAL_WRITE).
 */
#ifndef SALLYPORT_FUZZ_FRONT_END_H
#define SALLYPORT_FUZZ_FRONT_END_H

#include <sys/un.h>

#include "../../backend/forwarder/core/vhost_net.h"
#include "must.h"

#define PAGE 4096U
#define REGION_BYTES (8 * PAGE)
#define MEMORY_BYTES (2 * REGION_BYTES)
#define FILE_BYTES (MEMORY_BYTES + PAGE) /* the last page belongs to no region */
#define MEMORY_LIMIT (1U << 20)          /* what the endpoint accepts */
#define GUEST_0 0x1000U                  /* guest-physical address of each region */
#define GUEST_1 0x100000000U
#define USER_0 0x7f0000000000U /* the front-end's address, as it tells it */
#define USER_1 0x7f0000100000U

/* Where in the memory the honest guest has what; the rings lie in region 0. */
#define TABLE_AT(queue) ((queue) * 0x3000U)
#define AVAILABLE_AT(queue) ((queue) * 0x3000U + 0x1000U)
#define USED_AT(queue) ((queue) * 0x3000U + 0x2000U)
#define INDIRECT_AT 0x6000U
#define BUFFERS_AT REGION_BYTES
#define MAX_QUEUE 256U /* descriptors that fit there */

enum {
    SAY_GET_FEATURES = 1,
    SAY_SET_FEATURES = 2,
    SAY_SET_OWNER = 3,
    SAY_RESET_OWNER = 4,
    SAY_SET_MEM_TABLE = 5,
    SAY_SET_VRING_NUM = 8,
    SAY_SET_VRING_ADDR = 9,
    SAY_SET_VRING_BASE = 10,
    SAY_GET_VRING_BASE = 11,
    SAY_SET_VRING_KICK = 12,
    SAY_SET_VRING_CALL = 13,
    SAY_SET_VRING_ERR = 14,
    SAY_GET_PROTOCOL_FEATURES = 15,
    SAY_SET_PROTOCOL_FEATURES = 16,
    SAY_GET_QUEUE_NUM = 17,
    SAY_SET_VRING_ENABLE = 18,
    SAY_SEND_RARP = 19,
};

struct say_region {
    uint64_t guest, size, user, offset;
};

struct say_regions {
    uint32_t regions, padding;
    struct say_region region[GUEST_REGIONS + 2];
};

struct say_addresses {
    uint32_t index, flags;
    uint64_t table, used, available, log;
};

struct front_end {
    int connection;  /* -1: none */
    int file;        /* the guest's memory */
    uint8_t *memory; /* FILE_BYTES of it */
    int kick[VHOST_QUEUES], call[VHOST_QUEUES];
    uint32_t size[VHOST_QUEUES];      /* of the queues */
    uint16_t available[VHOST_QUEUES]; /* index, as the guest left it */
};

/* The endpoint that is under test; there is one. */
extern struct endpoint *port;
extern struct vhost_user *device;
extern struct counter received[VERDICTS]; /* what receive() refused */
extern struct counter sent[VERDICTS];     /* what became of frames that were sent */

/* Open the endpoint and its listening socket, once. `offload`: it offers checksum and segmentation offload. */
void port_open(bool offload);

/* One turn of the data path's loop without sleeping: arm(), poll(2), wake(). Returns whether there was something to do.
 */
bool port_turn(bool want_frames, bool want_room);

/* Descriptors of this process that are open, and mappings that the endpoint has. */
unsigned count_files(void);
unsigned count_mappings(void);

int new_memory(size_t bytes, unsigned seals);
int new_connection(void);

/* A guest with zeroed memory and a connection. front_end_close() checks that nothing of it is left at the endpoint. */
void front_end_open(struct front_end *front_end);
void front_end_close(struct front_end *front_end);

/* Send bytes with descriptors. Returns false if nobody takes them. */
bool say_bytes(int connection, const void *bytes, size_t len, const int *files, unsigned n);

/* Send a message: `flags` as in the header. */
bool say(int connection, uint32_t request, uint32_t flags, const void *payload, uint32_t len, const int *files,
         unsigned n);

/* Negotiate all of it, with queues of `size` descriptors. The endpoint gets its turns meanwhile. */
void front_end_negotiate(struct front_end *front_end, uint64_t features, uint32_t rx_size, uint32_t tx_size);

/* The guest-physical address of an offset in the memory. */
uint64_t guest_of(uint32_t at);

/* Words of the guest's memory, little-endian. */
void poke(struct front_end *front_end, uint32_t at, const void *bytes, size_t len);
void poke16(struct front_end *front_end, uint32_t at, uint16_t value);
uint16_t peek16(const struct front_end *front_end, uint32_t at);
void put_descriptor(struct front_end *front_end, uint32_t at, uint64_t address, uint32_t len, uint16_t flags,
                    uint16_t next);

/* Offer the chain that begins at `head`. */
void offer(struct front_end *front_end, unsigned queue, uint16_t head);

/* A whole honest conversation, with one frame each way: the endpoint still works. */
void check_alive(void);

#endif
