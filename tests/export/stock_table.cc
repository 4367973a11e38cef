#include "export/stock_table.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "common/error.h"
#include "common/file_io.h"
#include "convert/conversion_fixture.h"
#include "convert/conversion_methods.h"

namespace moe::testing {

std::string name_of(const MethodRow& row) {
  return concat(row.method, "_", row.experts, row.value == nullptr ? "" : concat("_", row.value),
                row.layers == nullptr ? "" : concat("_layers_", row.layers));
}

std::string formats_of_base(const std::string& family, const std::string& formats) {
  const std::string first = "mixtral ";
  return family == "qwen2" && formats.rfind(first, 0) == 0 ? formats.substr(first.size()) : formats;
}

v1::ConvertSpec spec_of(const MethodRow& row, int width, const std::filesystem::path& text) {
  v1::ConvertSpec spec = convert_spec(row.method, row.experts, std::min(row.experts, 2), text);
  spec.mutable_calibration()->set_tokens(400);
  if (row.experts == 3) spec.mutable_ffn()->set_shared_experts(1);
  if (row.experts == 1) spec.mutable_ffn()->set_expert_width(width);
  // The further models are copies of the source.
  if (conversion_methods().at(row.method).has_others)
    *spec.mutable_ffn() = sizes_of(row.method, 4 * width, row.experts, 2).value();
  if (row.option != nullptr) (*spec.mutable_ffn()->mutable_options())[row.option] = row.value;
  if (row.layers != nullptr) spec.mutable_ffn()->add_layers(row.layers);
  return spec;
}

void set_router(const std::filesystem::path& model, const std::string& score, const std::string& topk_norm) {
  nlohmann::json config = nlohmann::json::parse(read_file(model / "config.json"));
  config["moe"]["score"] = score;
  config["moe"]["topk_norm"] = topk_norm;
  write_file_atomically(model / "config.json", config.dump());
}

}  // namespace moe::testing
