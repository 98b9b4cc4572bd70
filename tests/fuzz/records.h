/* Inputs as rows of records of one size, and changes to them that keep the records apart. */
#ifndef SALLYPORT_FUZZ_RECORDS_H
#define SALLYPORT_FUZZ_RECORDS_H

#include <stdint.h>

#define MAX_RECORDS 96 /* of one input */

struct record {
    uint8_t what;
    uint8_t a, b, c;
    uint32_t d; /* both little-endian, as the machine's words are */
    uint64_t e;
};

#endif
