#include "checkpoint/dtypes.h"

#include <utility>
#include <vector>

#include "common/error.h"

namespace moe {
namespace {

const std::vector<std::pair<std::string, at::ScalarType>>& names() {
  static const std::vector<std::pair<std::string, at::ScalarType>> list{
      {"F32", at::kFloat}, {"F16", at::kHalf}, {"BF16", at::kBFloat16}, {"F64", at::kDouble},
      {"I32", at::kInt},   {"I64", at::kLong}, {"U8", at::kByte},       {"BOOL", at::kBool}};
  return list;
}

}  // namespace

std::optional<at::ScalarType> scalar_type_of(const std::string& dtype) {
  for (const auto& [name, type] : names()) {
    if (name == dtype) return type;
  }
  return std::nullopt;
}

std::string dtype_name(at::ScalarType type) {
  for (const auto& [name, known] : names()) {
    if (known == type) return name;
  }
  throw Internal(concat("no safetensors dtype for ", c10::toString(type)));
}

bool is_weight_type(at::ScalarType type) {
  return type == at::kFloat || type == at::kHalf || type == at::kBFloat16 || type == at::kDouble;
}

}  // namespace moe
