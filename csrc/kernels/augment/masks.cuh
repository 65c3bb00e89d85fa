// masks.cuh - moves the elements of masks as they are, on the GPU: the nearest one, or a fill. CPU: masks.h.
#pragma once

#include "kernels/augment/stages.h"
#include "loops/images/gather.cuh"

namespace onepass::gpu {

// A call, as the kernel gets it: all pointers are of the device.
struct DeviceMasks {
  const ImageView* masks;
  const ImagePass* passes;
  const ImageOp* ops;
  const double* values;
  void* output;
  int64_t count, height, width, op_count;

  static DeviceMasks make(const AugmentMasks& op) {
    const DeviceTable parts = masks_table(op);
    const char* table = op.device.table;
    return {reinterpret_cast<const ImageView*>(table + parts.images),
            reinterpret_cast<const ImagePass*>(table + parts.passes),
            reinterpret_cast<const ImageOp*>(table + parts.ops),
            reinterpret_cast<const double*>(table + parts.values),
            op.output,
            op.count,
            op.height,
            op.width,
            op.op_count};
  }
};

template <class E>
__device__ __forceinline__ E mask_element(const DeviceMasks& op, int64_t i, int64_t y, int64_t x) {
  const ImagePass& pass = op.passes[i];
  const auto position = [&](const double (&matrix)[9]) {
    const math::RowMap map = math::RowMap::make(matrix, double(y));
    return map.affine ? map.affine_at(double(x)) : map.projected_at(double(x));
  };
  const auto kind = Interpolation(int(pass.interpolation)) == Interpolation::kFloor ? math::Nearest::kFloor
                                                                                    : math::Nearest::kRound;
  const auto border = math::Border(int(pass.border));
  const math::Position p = position(pass.map);
  const ImageView& mask = op.masks[i];
  E value = static_cast<const E*>(
      mask.data)[nearest_of(p.y, {pass.top, pass.bottom - 1}, kind, border) * mask.row +
                 nearest_of(p.x, {pass.left, pass.right - 1}, kind, border) * mask.column];
  const ImageOp* ops = op.ops + i * op.op_count;
  for (int64_t k = 0; k < op.op_count && ops[k].kind != 0; ++k) {
    const double* a = ops[k].a;
    const math::Canvas canvas{a[kBlendWidth], a[kBlendHeight], float(a[kBlendPower]), false};
    if (canvas.coverage(position(reinterpret_cast<const double (&)[9]>(ops[k].a))) == 1) continue;
    value = a[kBlendPower] == 0 ? E(0) : E(int64_t(op.values[int64_t(ops[k].first)]));
  }
  return value;
}

// Blocks: a tile of kTileWidth x kTileHeight pixels of a sample.
template <class E>
__global__ void masks_kernel(const DeviceMasks op) {
  const uint32_t across = uint32_t(op.width + kTileWidth - 1) / kTileWidth;
  const int64_t x = int64_t(blockIdx.x % across) * kTileWidth + threadIdx.x % kTileWidth;
  const int64_t y = int64_t(blockIdx.x / across) * kTileHeight + threadIdx.x / kTileWidth;
  if (x >= op.width || y >= op.height) return;
  for (int64_t i = blockIdx.y; i < op.count; i += gridDim.y) {
    static_cast<E*>(op.output)[(i * op.height + y) * op.width + x] = mask_element<E>(op, i, y, x);
  }
}

// body(E{}) with the elements of that many bytes, on the host.
template <class Body>
void with_mask_elements(int64_t bytes, const Body& body) {
  if (bytes == 1) return body(uint8_t{});
  if (bytes == 2) return body(uint16_t{});
  if (bytes == 4) return body(uint32_t{});
  body(uint64_t{});
}

}  // namespace onepass::gpu
