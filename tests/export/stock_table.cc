#include "export/stock_table.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "common/file_io.h"
#include "convert/conversion_fixture.h"
#include "convert/conversion_methods.h"

namespace moe::testing {

v1::ConvertSpec spec_of(const MethodRow& row, int width, const std::filesystem::path& text) {
  v1::ConvertSpec spec = convert_spec(row.method, row.experts, std::min(row.experts, 2), text);
  spec.mutable_calibration()->set_tokens(400);
  if (row.experts == 3) spec.mutable_ffn()->set_shared_experts(1);
  if (row.experts == 1) spec.mutable_ffn()->set_expert_width(width);
  // The further models are copies of the source.
  if (conversion_methods().at(row.method).has_others)
    *spec.mutable_ffn() = sizes_of(row.method, 4 * width, row.experts, 2).value();
  return spec;
}

void set_router(const std::filesystem::path& model, const std::string& score, const std::string& topk_norm) {
  nlohmann::json config = nlohmann::json::parse(read_file(model / "config.json"));
  config["moe"]["score"] = score;
  config["moe"]["topk_norm"] = topk_norm;
  write_file_atomically(model / "config.json", config.dump());
}

}  // namespace moe::testing
