// draw_places.h - reads where a shard's draws are (core/draw_places.h), at the boundary.
#pragma once

#include <pybind11/pybind11.h>

#include "core/draw_places.h"

namespace onepass {

// part: a tuple of the first draw, then sizes, then strides. option: what messages call it.
DrawPlaces draw_places_of(pybind11::handle part, const char* function, const char* option);

}  // namespace onepass
