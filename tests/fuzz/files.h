/* File descriptors of every kind that a front-end may hand over. */
#ifndef SALLYPORT_FUZZ_FILES_H
#define SALLYPORT_FUZZ_FILES_H

#include <stdbool.h>
#include <stdint.h>

#define MAX_FILES 12 /* descriptors with a message */

/* Before all else, once. */
void files_set_up(void);

/* A descriptor of some kind, which the caller closes; `other` is one to have a copy of. Copies of those of memory are
 * kept until files_forget(), for later mischief.
 */
int files_new(unsigned kind, int other);

/* Close the caller's copies of descriptors that were handed over or, if nobody else has them, without waiting. */
void files_close(bool handed_over, const int *files, unsigned n);

/* Change the memory that was handed over: `how` is 0 (its size becomes `size`), 1 (its pages go) or 2 (seals). */
void files_spoil(unsigned how, uint32_t size);

void files_forget(void);

#endif
