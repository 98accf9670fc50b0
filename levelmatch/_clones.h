/* Licensed under a 3-clause BSD style license - see LICENSE.rst

   Loops that are compiled for several processors. */

#ifndef LEVELMATCH_CLONES_H
#define LEVELMATCH_CLONES_H

#include <stdint.h>

/* Compiled twice, with AVX2 and without. Only glibc, whose macro comes with <stdint.h>, can choose
   when the module is loaded. */
#if defined(__GNUC__) && !defined(__clang__) && defined(__x86_64__) && defined(__GLIBC__)
#define LM_CLONES __attribute__((target_clones("avx2", "default")))
#else
#define LM_CLONES
#endif

#endif
