// batch_draws.h - what transforms draw for a batch, and the maps that come of it.
#pragma once

#include <cstdint>

#include "kernels/augment/batch_plan.h"

namespace onepass {

// Writes u = word / 2^32 of all blocks of four words, (count, 4 block_count): Philox with the counter (id's
// low half, its high half, epoch, block).
void draw_uniform(uint64_t seed, const uint64_t* ids, int64_t count, uint32_t epoch, const uint64_t* blocks,
                  int64_t block_count, double* drawn);

// Writes numbers between low and high.
void draw_between(Each u, int64_t count, double low, double high, double* drawn);

// Writes places of parts of `part` pixels along an axis of `size`.
void draw_places(Each u, int64_t count, Each size, double part, double* drawn);

// Writes 1 where u is below p, 0 elsewhere.
void draw_applied(Each u, int64_t count, double p, double* applied);

// Affine maps of a batch (math/plane_map.h, Affine); angles in degrees with their cos and sin.
struct AffineBatch {
  Each angle, cos, sin, tan_x, tan_y, scale, x, y, move_x, move_y;
};

// Writes the inverse maps between offsets from the middles, (count, 9).
void inverse_affines(const AffineBatch& batch, int64_t count, double* maps);

// Makes maps between pixel indices of them.
void from_middles(double* maps, int64_t count, Each height, Each width, Each new_height, Each new_width);

}  // namespace onepass
