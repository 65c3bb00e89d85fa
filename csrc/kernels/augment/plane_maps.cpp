#include "kernels/augment/plane_maps.h"

namespace onepass {

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

void draw_uniform(uint64_t seed, const uint64_t* ids, int64_t count, uint32_t epoch, const uint64_t* blocks,
                  int64_t block_count, double* drawn) {
  for (int64_t i = 0; i < count; ++i) {
    const uint32_t low = uint32_t(ids[i]), high = uint32_t(ids[i] >> 32);
    for (int64_t b = 0; b < block_count; ++b) {
      const PhiloxWords words = philox({{low, high, epoch, uint32_t(blocks[b])}}, seed);
      for (int k = 0; k < 4; ++k) *drawn++ = words.word[k] * 0x1p-32;
    }
  }
}

}  // namespace onepass
