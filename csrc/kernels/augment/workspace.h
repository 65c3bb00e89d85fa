// workspace.h - the scratch memory of one thread that augments, cut out of one block.
#pragma once

#include "kernels/augment/augment.h"
#include "loops/common/fetch.h"
#include "loops/images/gather_bytes.h"
#include "loops/images/gather_pixels.h"
#include "loops/images/resize_rows.h"

namespace onepass::ONEPASS_ISA {

// Floats behind a row that are read, with a weight of 0.
constexpr int64_t kBehindRow = 64;

// Floats of a row as it is resized, and what a register stores behind it.
inline int64_t resized_floats(int64_t width, int64_t channels) { return width * channels + 16; }

// Floats of a row of bytes that was widened.
inline int64_t wide_pitch(int64_t n) { return (n + 15) / 16 * 16; }

// Bytes that the samples need at most.
struct WorkspaceSizes {
  int64_t image = 0;    // floats of an image between two passes, or before a statistic
  int64_t mixed = 0;    // floats of a finished image that another one is mixed with
  int64_t columns = 0;  // bytes of the tables of taps
  int64_t rows = 0;
  int64_t row = 0;      // floats of the rows between the two directions of a resize
  int64_t resized = 0;  // floats of the rows behind both
  int64_t wide = 0;     // floats of rows of bytes that were widened
  int64_t strip = 0;
  int64_t moved = 0;  // a row of floats, and four of bytes

  static WorkspaceSizes make(const Augment& op) {
    WorkspaceSizes sizes;
    // A strip of floats, or a row of bytes.
    const int64_t bytes = (op.width + 64) * op.channels / int64_t(sizeof(float)) + 16;
    sizes.strip = kStripPitch * op.channels + 16;
    raise(sizes.strip, bytes);
    sizes.moved = 2 * (op.width + 64) * op.channels;
    bool mixes = false;
    for (int64_t i = 0; i < op.count; ++i) {
      mixes = mixes || op.samples[i].mixing != 0;
      int64_t made = 0;
      for (int64_t p = 0; p < op.pass_count; ++p) sizes.add(op, i * op.pass_count + p, made);
    }
    if (mixes) sizes.mixed = FloatImage::elements(op.height, op.width, op.channels);
    return sizes;
  }
  int64_t bytes() const {
    const int64_t floats = 2 * image + 2 * mixed + row + resized + wide + 4 * strip + moved;
    const int64_t all =
        floats * int64_t(sizeof(float)) + columns + rows + int64_t(sizeof(TapStrip) + sizeof(ByteTaps));
    // Whole lines: the memory of the next thread begins behind them, and has to be aligned, too.
    return (all + 16 * kLine + kLine - 1) / kLine * kLine;
  }

 private:
  static void raise(int64_t& most, int64_t value) { most = value > most ? value : most; }

  // made: how many passes the sample has had.
  void add(const Augment& op, int64_t index, int64_t& made) {
    const ImagePass& pass = op.passes[index];
    if (pass.kind == 0) return;
    bool keeps = ++made > 1;
    for (int64_t k = 0; k < op.op_count; ++k) {
      keeps = keeps || is_statistic(OpKind(int(op.ops[index * op.op_count + k].kind)));
    }
    const int64_t height = int64_t(pass.height), width = int64_t(pass.width);
    // The result of this pass, should another follow, and the image before a statistic.
    if (keeps || op.pass_count > 1)
      raise(image, FloatImage::elements(height, width, op.channels) + kBehindPixels);
    if (pass.kind != double(PassKind::kResize)) return;
    raise(columns, TapTable::bytes(width, resize_axis(pass, true).most_taps()));
    raise(rows, TapTable::bytes(height, resize_axis(pass, false).most_taps()));
    const int64_t each = op.channels * FloatImage::pitch_of(int64_t(pass.right - pass.left)) + kBehindRow;
    raise(row, kRowsTogether * each);
    raise(wide, WideRows::kRows * wide_pitch(int64_t(pass.right - pass.left) * op.channels));
    raise(resized, kRowsTogether * resized_floats(width, op.channels));
  }
};

struct Workspace {
  float* image[2];
  float* mixed[2];
  char* columns;
  char* rows;
  float* row;
  float* resized;
  float* wide;
  float* strip;   // the planes that operations work on
  float* grey;    // other values of the pixels of a strip
  float* pixels;  // a strip as it is stored, before it is narrowed
  float* narrow;
  float* moved;
  TapStrip* taps;
  ByteTaps* bytes;

  static Workspace make(char* memory, const WorkspaceSizes& sizes) {
    const auto take = [&memory](int64_t bytes) {
      char* taken = memory;
      memory += (bytes + kLine - 1) / kLine * kLine;
      return taken;
    };
    const auto floats = [&](int64_t n) { return reinterpret_cast<float*>(take(n * int64_t(sizeof(float)))); };
    Workspace made;
    made.taps = reinterpret_cast<TapStrip*>(take(int64_t(sizeof(TapStrip))));
    made.bytes = reinterpret_cast<ByteTaps*>(take(int64_t(sizeof(ByteTaps))));
    made.strip = floats(sizes.strip);
    made.grey = floats(sizes.strip);
    made.pixels = floats(sizes.strip);
    made.narrow = floats(sizes.strip);
    made.row = floats(sizes.row);
    made.resized = floats(sizes.resized);
    made.wide = floats(sizes.wide);
    made.moved = floats(sizes.moved);
    made.columns = take(sizes.columns);
    made.rows = take(sizes.rows);
    for (float*& image : made.image) image = floats(sizes.image);
    for (float*& image : made.mixed) image = floats(sizes.mixed);
    return made;
  }
};

}  // namespace onepass::ONEPASS_ISA
