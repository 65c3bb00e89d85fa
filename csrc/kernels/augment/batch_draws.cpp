#include "kernels/augment/batch_draws.h"

#include "math/uniform.h"

namespace onepass {

void draw_uniform(uint64_t seed, const uint64_t* ids, int64_t count, uint32_t epoch, const uint64_t* blocks,
                  int64_t block_count, double* drawn) {
  for (int64_t i = 0; i < count; ++i) {
    const uint32_t low = uint32_t(ids[i]), high = uint32_t(ids[i] >> 32);
    for (int64_t b = 0; b < block_count; ++b) {
      const PhiloxWords words = philox({{low, high, epoch, uint32_t(blocks[b])}}, seed);
      for (const uint32_t word : words.word) *drawn++ = math::uniform_of(word);
    }
  }
}

void draw_between(Each u, int64_t count, double low, double high, double* drawn) {
  for (int64_t i = 0; i < count; ++i) drawn[i] = math::uniform_between(u[i], low, high);
}

void draw_places(Each u, int64_t count, Each size, double part, double* drawn) {
  for (int64_t i = 0; i < count; ++i) drawn[i] = math::uniform_place(u[i], size[i] - part);
}

void draw_applied(Each u, int64_t count, double p, double* applied) {
  for (int64_t i = 0; i < count; ++i) applied[i] = u[i] < p ? 1 : 0;
}

void inverse_affines(const AffineBatch& batch, int64_t count, double* maps) {
  for (int64_t i = 0; i < count; ++i, maps += 9) {
    const math::Circle circle = math::exact_circle(batch.angle[i], batch.cos[i], batch.sin[i]);
    const math::Affine affine{circle,     batch.tan_x[i], batch.tan_y[i],  batch.scale[i],
                              batch.x[i], batch.y[i],     batch.move_x[i], batch.move_y[i]};
    const math::PlaneMap map = affine.inverse();
    for (int k = 0; k < 9; ++k) maps[k] = map.m[k];
  }
}

void from_middles(double* maps, int64_t count, Each height, Each width, Each new_height, Each new_width) {
  for (int64_t i = 0; i < count; ++i, maps += 9) {
    math::PlaneMap map{};
    for (int k = 0; k < 9; ++k) map.m[k] = maps[k];
    map = math::from_middles(map, height[i], width[i], new_height[i], new_width[i]);
    for (int k = 0; k < 9; ++k) maps[k] = map.m[k];
  }
}

}  // namespace onepass
