#include "kernels/test_matrix.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <random>

namespace moe::kernels {

void PrintTo(DeviceType device, std::ostream* out) {
  *out << testing::name_of(device);
}

void PrintTo(DType dtype, std::ostream* out) {
  *out << testing::name_of(dtype);
}

}  // namespace moe::kernels

namespace moe::kernels::testing {
namespace {

constexpr double kMarker = -12345;  // rounded by bfloat16 to -12352, which is compared as such

/// Rounds to 8 significant bits, ties to even, by arithmetic: shares nothing with the kernels' bit tricks.
double round_to_bfloat16(double value) {
  if (value == 0 || !std::isfinite(value)) {
    return value;
  }
  int exponent = 0;
  std::frexp(value, &exponent);
  return std::ldexp(std::nearbyint(std::ldexp(value, 8 - exponent)), exponent - 8);
}

void put(char* to, double value, DType dtype) {
  if (dtype == DType::kFloat64) {
    std::memcpy(to, &value, sizeof(value));
    return;
  }
  const float narrow = static_cast<float>(rounded(value, dtype));
  char bytes[4];
  std::memcpy(bytes, &narrow, 4);
  if (dtype == DType::kFloat32) {
    std::memcpy(to, bytes, 4);
  } else {
    std::memcpy(to, bytes + 2, 2);  // little endian: the upper half
  }
}

double get(const char* from, DType dtype) {
  if (dtype == DType::kFloat64) {
    double value = 0;
    std::memcpy(&value, from, 8);
    return value;
  }
  char bytes[4] = {};
  if (dtype == DType::kFloat32) {
    std::memcpy(bytes, from, 4);
  } else {
    std::memcpy(bytes + 2, from, 2);
  }
  float value = 0;
  std::memcpy(&value, bytes, 4);
  return value;
}

}  // namespace

void expect_close(const std::string& what, const std::vector<double>& got, const std::vector<Expected>& expected,
                  DType dtype) {
  ASSERT_EQ(got.size(), expected.size()) << what;
  const Tolerance limit = tolerance(dtype);
  double worst = 0;
  size_t where = 0;
  for (size_t i = 0; i < got.size(); ++i) {
    const double allowed = limit.sum_error * expected[i].magnitude + limit.rounding * std::abs(expected[i].value);
    const double error = std::abs(got[i] - expected[i].value);
    const double share = error <= allowed ? 0 : std::isfinite(error) ? error / std::max(allowed, 1e-300) : HUGE_VAL;
    if (share > worst) {
      worst = share;
      where = i;
    }
  }
  EXPECT_EQ(worst, 0) << what << "[" << where << "] is " << got[where] << ", expected " << expected[where].value
                      << ": times what the tolerance table allows";
}

std::string name_of(DeviceType device) {
  return device == DeviceType::kCpu ? "Cpu" : "Cuda";
}

std::string name_of(DType dtype) {
  switch (dtype) {
    case DType::kFloat32: return "Float32";
    case DType::kBFloat16: return "BFloat16";
    case DType::kFloat64: return "Float64";
  }
  return "?";
}

double rounded(double value, DType dtype) {
  switch (dtype) {
    case DType::kFloat32: return static_cast<float>(value);
    case DType::kBFloat16: return round_to_bfloat16(value);
    case DType::kFloat64: return value;
  }
  return value;
}

std::vector<double> random_values(int64_t count, DType dtype, uint64_t seed) {
  std::mt19937_64 generator(seed);
  std::uniform_real_distribution<double> uniform(-1, 1);
  std::vector<double> values(static_cast<size_t>(count));
  for (double& value : values) {
    value = rounded(uniform(generator), dtype);
  }
  return values;
}

TestMatrix::TestMatrix(DeviceType device, DType dtype, int64_t rows, int64_t cols, int64_t padding,
                       const std::vector<double>& values)
    : dtype_(dtype),
      rows_(rows),
      cols_(cols),
      stride_(cols + padding),
      memory_(allocate(device, static_cast<size_t>(rows * stride_ * dtype_size(dtype)))) {
  std::vector<char> host(static_cast<size_t>(rows_ * stride_ * dtype_size(dtype_)));
  for (int64_t i = 0; i < rows_; ++i) {
    for (int64_t j = 0; j < stride_; ++j) {
      const bool is_value = j < cols_ && !values.empty();
      put(host.data() + (i * stride_ + j) * dtype_size(dtype_), is_value ? values[i * cols_ + j] : kMarker, dtype_);
    }
  }
  memory_->write(host.data(), host.size());
}

MatrixView TestMatrix::view() {
  return {memory_->data(), dtype_, rows_, cols_, stride_};
}

VectorView TestMatrix::vector() {
  EXPECT_EQ(stride_, cols_);
  return {memory_->data(), dtype_, rows_ * cols_};
}

MatrixView TestMatrix::rows(int64_t first, int64_t count) {
  return {static_cast<char*>(memory_->data()) + first * stride_ * dtype_size(dtype_), dtype_, count, cols_, stride_};
}

std::vector<double> TestMatrix::values() {
  std::vector<char> host(static_cast<size_t>(rows_ * stride_ * dtype_size(dtype_)));
  memory_->read(host.data(), host.size());
  std::vector<double> out;
  int64_t spoilt = 0;
  for (int64_t i = 0; i < rows_; ++i) {
    for (int64_t j = 0; j < stride_; ++j) {
      const double value = get(host.data() + (i * stride_ + j) * dtype_size(dtype_), dtype_);
      if (j < cols_) {
        out.push_back(value);
      } else if (value != rounded(kMarker, dtype_)) {
        ++spoilt;
      }
    }
  }
  EXPECT_EQ(spoilt, 0) << "elements between the rows were written";
  return out;
}

std::vector<char> TestMatrix::bytes() {
  const size_t size = static_cast<size_t>(dtype_size(dtype_));
  std::vector<char> host(static_cast<size_t>(rows_ * stride_) * size);
  memory_->read(host.data(), host.size());
  std::vector<char> out;
  for (int64_t i = 0; i < rows_; ++i) {
    const auto row = host.begin() + static_cast<std::ptrdiff_t>(static_cast<size_t>(i * stride_) * size);
    out.insert(out.end(), row, row + static_cast<std::ptrdiff_t>(static_cast<size_t>(cols_) * size));
  }
  return out;
}

}  // namespace moe::kernels::testing
