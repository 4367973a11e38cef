#include "parallel/column_order.h"

#include <bit>
#include <string>

#include "common/error.h"
#include "model/device.h"

namespace moe {
namespace {

constexpr int kDigitBits = 8;
constexpr int64_t kDigits = int64_t{1} << kDigitBits;

/// An unsigned number for each value, in the order of the values (-0 below 0).
template <typename Key, typename Value>
Key key_of(Value value) {
  constexpr Key kSign = Key{1} << (8 * sizeof(Key) - 1);
  const Key bits = std::bit_cast<Key>(value);
  return (bits & kSign) != 0 ? ~bits : bits | kSign;
}

template <typename Value, typename Key>
Value value_of(Key key) {
  constexpr Key kSign = Key{1} << (8 * sizeof(Key) - 1);
  return std::bit_cast<Value>((key & kSign) != 0 ? key & ~kSign : ~key);
}

/// Counts the digit at `shift` of the values whose bits above it are those of the column's prefix.
template <typename Value, typename Key>
void count_digits(const at::Tensor& part_TC, const std::vector<Key>& prefixes, int shift, int64_t* counts_CD) {
  constexpr int kBits = 8 * sizeof(Key);
  const Key above = shift + kDigitBits == kBits ? Key{0} : ~Key{0} << (shift + kDigitBits);
  const Value* value = part_TC.const_data_ptr<Value>();
  const auto columns = static_cast<int64_t>(prefixes.size());
  for (int64_t t = 0; t < part_TC.size(0); ++t) {
    for (int64_t c = 0; c < columns; ++c, ++value) {
      const Key key = key_of<Key>(*value);
      if (((key ^ prefixes[c]) & above) != 0) continue;
      ++counts_CD[c * kDigits + static_cast<int64_t>((key >> shift) & Key{kDigits - 1})];
    }
  }
}

template <typename Value, typename Key>
at::Tensor ranked_in(const std::vector<at::Tensor>& parts_TC, int64_t rank, Communicator& world) {
  const int64_t columns = parts_TC.front().size(1);
  std::vector<Key> prefixes(static_cast<size_t>(columns), 0);
  std::vector<int64_t> ranks(static_cast<size_t>(columns), rank);
  at::Tensor counts_CD = at::empty({columns, kDigits}, at::kLong);
  for (int shift = 8 * static_cast<int>(sizeof(Key)) - kDigitBits; shift >= 0; shift -= kDigitBits) {
    counts_CD.zero_();
    for (const at::Tensor& part : parts_TC)
      count_digits<Value>(part, prefixes, shift, counts_CD.mutable_data_ptr<int64_t>());
    world.all_reduce_sum(counts_CD, "ranked of columns");
    const int64_t* counts = counts_CD.const_data_ptr<int64_t>();
    for (int64_t c = 0; c < columns; ++c, counts += kDigits) {
      int64_t digit = kDigits - 1;
      for (; digit >= 0 && counts[digit] < ranks[c]; --digit) ranks[c] -= counts[digit];
      MOE_CHECK(digit >= 0, "there are less than ", rank, " rows");
      prefixes[c] |= static_cast<Key>(digit) << shift;
    }
  }
  at::Tensor result = at::empty({columns}, parts_TC.front().options().device(at::kCPU).requires_grad(false));
  Value* const values = result.mutable_data_ptr<Value>();
  for (int64_t c = 0; c < columns; ++c) values[c] = value_of<Value>(prefixes[c]);
  return result;
}

}  // namespace

at::Tensor ranked_of_columns(const std::vector<at::Tensor>& parts_TC, int64_t rank, Communicator& world) {
  MOE_CHECK(!parts_TC.empty() && rank >= 1, "a rank from 1 on, of at least one part");
  std::vector<at::Tensor> parts;
  for (const at::Tensor& part : parts_TC) {
    MOE_CHECK(part.dim() == 2 && part.size(1) == parts_TC.front().size(1) &&
                  part.scalar_type() == parts_TC.front().scalar_type(),
              "parts have the same columns and type");
    parts.push_back(part.detach().cpu().contiguous());
  }
  const bool is_double = parts.front().scalar_type() == at::kDouble;
  MOE_CHECK(is_double || parts.front().scalar_type() == at::kFloat, "values are float or double");
  return on_device(
      is_double ? ranked_in<double, uint64_t>(parts, rank, world) : ranked_in<float, uint32_t>(parts, rank, world),
      parts_TC.front().device());
}

}  // namespace moe
