/* Messages of a front-end that are honest but for what a record changes. */
#ifndef SALLYPORT_FUZZ_SAY_ANY_H
#define SALLYPORT_FUZZ_SAY_ANY_H

#include "front_end.h"
#include "records.h"

/* Say a message of the request's own form, but for what `b` changes: bit 0: a reply is asked for; bit 1: other flags;
 * bit 2: another size; bits 3 to 6: descriptors of another kind; bit 7: their number.
 */
void front_end_say_any(const struct front_end *front_end, const struct record *record);

#endif
