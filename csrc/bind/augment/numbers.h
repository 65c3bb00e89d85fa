// numbers.h - what transforms give a plan: one number for all samples or one for each, and which samples.
#pragma once

#include <pybind11/numpy.h>

#include <array>
#include <cstring>
#include <string_view>
#include <vector>

#include "core/check.h"
#include "kernels/augment/batch_plan.h"

namespace onepass {

// Reads the arguments of one call, and keeps what it borrows until it is destroyed. Needs the GIL.
class NumberReader {
 public:
  NumberReader(const char* function, int64_t count) : function_(function), count_(count) {}
  NumberReader(const NumberReader&) = delete;
  NumberReader& operator=(const NumberReader&) = delete;

  Each each(pybind11::handle value, const char* name) {
    if (PyFloat_Check(value.ptr())) return one(PyFloat_AS_DOUBLE(value.ptr()));
    const auto array = kept<double>(value);
    OP_CHECK(array && (array.ndim() == 0 || (array.ndim() == 1 && array.shape(0) == count_)), TypeError,
             function_, ": ", name, " must be a number or an array of ", count_, " numbers, got ",
             told(value));
    if (array.ndim() == 0) return {array.data(), 0};
    constexpr int64_t kItem = sizeof(double);
    if (array.strides(0) % kItem == 0) return {array.data(), array.strides(0) / kItem};
    std::vector<double>& copy = copies_.emplace_back(size_t(count_));
    for (int64_t i = 0; i < count_; ++i) std::memcpy(&copy[size_t(i)], array.data(i), sizeof(double));
    return {copy.data(), 1};
  }

  Chosen chosen(pybind11::handle value) {
    if (value.is_none()) return {};
    const auto array = kept<bool>(value);
    OP_CHECK(array && array.ndim() == 1 && array.shape(0) == count_, TypeError, function_,
             ": on must be None or an array of ", count_, " bools, got ", told(value));
    return {reinterpret_cast<const uint8_t*>(array.data()), array.strides(0)};
  }

  // (count, 3, 3), without gaps.
  const double* maps(pybind11::handle value, bool written = false) {
    using Dense = pybind11::array_t<double, pybind11::array::c_style>;
    const bool right = Dense::check_(value);
    const auto array = right ? pybind11::reinterpret_borrow<Dense>(value) : Dense();
    OP_CHECK(right && array.ndim() == 3 && array.shape(0) == count_ && array.shape(1) == 3 &&
                 array.shape(2) == 3 && (!written || array.writeable()),
             TypeError, function_, ": matrix must be an array of ", count_, " x 3 x 3 float64, got ",
             told(value));
    return array.data();
  }

  std::vector<double> list(pybind11::handle values) const {
    const auto items = pybind11::reinterpret_borrow<pybind11::sequence>(values);
    std::vector<double> numbers;
    numbers.reserve(items.size());
    for (const pybind11::handle item : items) numbers.push_back(item.cast<double>());
    return numbers;
  }

 private:
  Each one(double number) {
    double& place = ones_[one_count_++ % ones_.size()];
    place = number;
    return {&place, 0};
  }

  // The array, without a copy where it has the type; empty for what numpy makes none of.
  template <class T>
  pybind11::array_t<T, pybind11::array::forcecast> kept(pybind11::handle value) {
    auto array = pybind11::array_t<T, pybind11::array::forcecast>::ensure(value);
    if (array && array.ptr() != value.ptr()) kept_.push_back(array);
    return array;
  }

  static std::string told(pybind11::handle value) {
    const bool is_array = pybind11::isinstance<pybind11::array>(value);
    return pybind11::str(is_array ? pybind11::str("shape {}").format(value.attr("shape"))
                                  : pybind11::str(pybind11::type::of(value).attr("__name__")));
  }

  const char* const function_;
  const int64_t count_;
  // As many as a call has numbers at most: the parameters of an operation, its kind and its level.
  std::array<double, 16> ones_{};
  size_t one_count_ = 0;
  std::vector<pybind11::object> kept_;
  std::vector<std::vector<double>> copies_;
};

}  // namespace onepass
