#include "convert/conversion_fixture.h"

#include <algorithm>
#include <deque>

#include "checkpoint/model_writer.h"
#include "common/file_io.h"
#include "common/rng.h"
#include "convert/conversion_methods.h"
#include "convert/converter.h"
#include "convert/fixture_methods.h"
#include "testing/message_of.h"
#include "testing/run_ranks.h"
#include "testing/tiny_model.h"

namespace moe::testing {

namespace fs = std::filesystem;

namespace {

/// In ffn.others, for tests of every method: the model that is converted once more.
constexpr char kSourceItself[] = "source";

}  // namespace

v1::ConvertSpec convert_spec(const std::string& method, int experts, int top_k, const fs::path& calibration) {
  v1::ConvertSpec spec;
  spec.mutable_ffn()->set_method(method);
  spec.mutable_ffn()->set_experts(experts);
  spec.mutable_ffn()->set_top_k(top_k);
  spec.mutable_router()->set_init(calibration.empty() ? "kaiming" : "random_selection");
  spec.mutable_router()->set_scaling("calibrated");
  spec.mutable_scale()->set_mode(calibration.empty() ? "energy" : "least_squares");
  spec.mutable_calibration()->set_tokens(1024);
  spec.mutable_router()->set_topk_norm(top_k == 1 ? "straight_through" : "renorm");
  spec.set_dtype("source");
  if (!calibration.empty()) add_text(spec, calibration);
  return spec;
}

std::optional<v1::FfnExpertsSpec> sizes_of(const std::string& method, int64_t width, int units, int top_k) {
  const ConversionMethod& known = conversion_methods().at(method);
  ModelConfig config = tiny_config();
  config.intermediate_size = width;
  v1::FfnExpertsSpec whole, with_shared, one_part, merged;
  whole.set_experts(units);
  with_shared.set_experts(units - 1);
  with_shared.set_shared_experts(1);
  one_part.set_experts(1);
  one_part.set_expert_width(static_cast<int32_t>(width / units));
  merged.set_experts(std::max(units, 2));
  for (int other = 1; other < merged.experts(); ++other) merged.add_others(kSourceItself);
  (*merged.mutable_options())["router"] = "random";
  for (v1::FfnExpertsSpec& sizes : std::vector<v1::FfnExpertsSpec>{whole, with_shared, one_part, merged}) {
    const bool is_taken = sizes.experts() > 0 && (known.has_shared || sizes.shared_experts() == 0) &&
                          (known.has_free_width || !sizes.has_expert_width()) &&
                          known.has_others == !sizes.others().empty();
    sizes.set_method(method);
    sizes.set_top_k(std::min(top_k, sizes.experts()));
    if (is_taken && (known.size_problem ? known.size_problem : division_problem)(config, sizes).empty()) return sizes;
  }
  return std::nullopt;
}

v1::ConvertSpec method_spec(const std::string& method, int units, int top_k, const fs::path& calibration) {
  v1::ConvertSpec spec = convert_spec(method, units, top_k, calibration);
  *spec.mutable_ffn() = sizes_of(method, 48, units, top_k).value();
  spec.mutable_router()->set_topk_norm(spec.ffn().top_k() == 1 ? "straight_through" : "renorm");
  return spec;
}

void set_option(v1::ConvertSpec& spec, const std::string& name, const std::string& value) {
  (*spec.mutable_ffn()->mutable_options())[name] = value;
}

void add_text(v1::ConvertSpec& spec, const fs::path& path) {
  v1::DataSource& source = *spec.mutable_calibration()->add_data();
  source.set_path(path);
  source.set_weight(1);
  source.set_domain("calibration");
}

void give_needed_text(v1::ConvertSpec& spec, const fs::path& calibration) {
  if (conversion_methods().at(spec.ffn().method()).needs.text() && spec.calibration().data().empty())
    add_text(spec, calibration);
}

bool writes_neurons(const std::string& method) {
  return !conversion_methods().at(method).has_others;
}

std::string no_partition_of(const std::string& method, const ModelConfig& config) {
  const ConversionMethod& row = conversion_methods().at(method);
  if (!row.is_partition) return method + " makes no partition";
  return row.refusal ? row.refusal(config) : "";
}

void set_scale_mode(v1::ScaleSpec& scale, const std::string& mode) {
  scale.set_mode(mode);
  if (mode == "fixed") scale.set_value(2.7);
  if (mode != "per_layer") return;
  scale.add_values(1.9);
  scale.add_values(2.3);
}

double count_all_alike(v1::ConvertSpec& spec) {
  const bool brings_router = conversion_methods().at(spec.ffn().method()).has_router;
  if (brings_router) {
    spec.mutable_router()->set_topk_norm("straight_through");
  } else {
    spec.mutable_router()->set_init("zero");
  }
  const double scale = brings_router ? 1 : spec.ffn().experts();
  spec.mutable_scale()->set_mode("fixed");
  spec.mutable_scale()->set_value(scale);
  return scale;
}

void write_dense_model(const fs::path& path, const ModelConfig& config, uint64_t seed, at::ScalarType dtype) {
  Decoder decoder(config, at::kFloat, {});
  fill_random(decoder, seed);
  write_model(path, /*source=*/path, decoder, config, dtype, *make_self_communicator(), true);
}

void write_dense_model(const fs::path& path, const ModelConfig& config, uint64_t seed,
                       const std::function<void(const Parameter&)>& change) {
  const at::NoGradGuard no_grad;
  Decoder decoder(config, at::kFloat, {});
  fill_random(decoder, seed);
  for (const Parameter& parameter : decoder.parameters()) change(parameter);
  write_model(path, /*source=*/path, decoder, config, at::kFloat, *make_self_communicator(), true);
}

void write_calibration(const fs::path& path, int documents, int64_t vocab_size, uint64_t seed) {
  CounterRng rng(seed, kStreamTest, 2);
  std::string lines;
  for (int document = 0; document < documents; ++document) {
    std::vector<int64_t> ids(20 + rng.below(41));
    for (int64_t& id : ids) id = static_cast<int64_t>(rng.below(static_cast<uint64_t>(vocab_size)));
    lines += nlohmann::json{{"ids", ids}}.dump() + "\n";
  }
  write_file_atomically(path, lines);
}

namespace {

DataLoader calibration_loader(const ModelConfig& config, const fs::path& text, uint64_t seed) {
  PackingOptions packing;
  packing.sequence_length = config.max_positions;
  packing.seed = seed;
  packing.vocab_size = config.vocab_size;
  packing.one_pass = true;
  return DataLoader({{text.string(), 1, "calibration", 0}}, nullptr, packing);
}

/// How many rows hold so many tokens.
int64_t rows_of(DataLoader& loader, int64_t tokens) {
  int64_t rows = 0;
  for (int64_t taken = 0; taken < tokens;) taken += loader.tokens(rows++, 1);
  return rows;
}

}  // namespace

PackedBatch calibration_rows(const ModelConfig& config, const fs::path& text, uint64_t seed, int64_t tokens) {
  DataLoader loader = calibration_loader(config, text, seed);
  return loader.batch(0, rows_of(loader, tokens));
}

PackedBatch held_out_rows(const ModelConfig& config, const fs::path& text, uint64_t seed, int64_t tokens) {
  DataLoader loader = calibration_loader(config, text, seed);
  const int64_t first = rows_of(loader, tokens);
  int64_t count = 0;
  while (loader.has_row(first + count)) ++count;
  return loader.batch(first, count);
}

nlohmann::json convert(const v1::ConvertSpec& spec, uint64_t seed, const fs::path& source, const fs::path& output) {
  return convert(spec, seed, source, output, *make_self_communicator());
}

nlohmann::json convert(const v1::ConvertSpec& spec, uint64_t seed, const fs::path& source, const fs::path& output,
                       Communicator& world) {
  const OpenedModel opened = open_model(source, text_of_job(""));
  std::deque<ModelDirectory> others;
  for (const std::string& other : spec.ffn().others())
    others.emplace_back(other == kSourceItself ? source : fs::path(other));
  ConvertRequest request{.spec = spec,
                         .seed = seed,
                         .source = opened.directory,
                         .text = opened.text,
                         .output = output,
                         .monitor = unwatched()};
  for (const ModelDirectory& other : others) request.others.push_back(&other);
  return convert_model(request, world);
}

nlohmann::json convert_by_fixture(const v1::ConvertSpec& spec, uint64_t seed, const fs::path& source,
                                  const fs::path& output, Communicator& world, const std::vector<fs::path>& others) {
  const ModelDirectory directory(source);
  std::deque<ModelDirectory> opened;
  for (const fs::path& other : others) opened.emplace_back(other);
  ConvertRequest request{.spec = spec,
                         .seed = seed,
                         .source = directory,
                         .text = {},
                         .output = output,
                         .monitor = unwatched(),
                         .others = {},
                         .methods = fixture_methods()};
  for (const ModelDirectory& other : opened) request.others.push_back(&other);
  return convert_model(request, world);
}

at::Tensor logits_of(const fs::path& model, const TokenBatch& batch, at::ScalarType dtype) {
  const at::NoGradGuard no_grad;
  const ModelDirectory directory(model);
  const Decoder decoder = load_decoder(directory, dtype, all_experts(directory.config()));
  LocalDispatcher dispatcher;
  return decoder.logits(decoder.forward(batch, dispatcher).hidden_TD);
}

std::string ConversionTest::refusal(const v1::ConvertSpec& spec, const fs::path& source) const {
  const std::string message = message_of([&] { convert(spec, /*seed=*/1, source, out()); });
  EXPECT_FALSE(fs::exists(out()));
  EXPECT_FALSE(fs::exists(out().string() + ".partial"));
  return message;
}

void ConversionTest::expect_same_files_at_any_ranks(const v1::ConvertSpec& spec, const std::vector<std::string>& files,
                                                    const std::string& name) const {
  const auto output = [&](int ranks) { return folder_ / name / concat(ranks); };
  fs::create_directory(folder_ / name);
  for (const int ranks : {1, 2, 4}) {
    run_ranks(ranks, [&](Communicator& world) { convert(spec, /*seed=*/1, dense(), output(ranks), world); });
    for (const std::string& file : files)
      EXPECT_EQ(read_file(output(ranks) / file), read_file(output(1) / file))
          << name << ": " << ranks << " ranks, " << file;
  }
}

ConversionTest::ConversionTest(const std::string& kind) {
  write_dense_model(dense(), tiny_config(kind), /*seed=*/11);
  write_calibration(ids(), 60, tiny_config().vocab_size, /*seed=*/12);
}

}  // namespace moe::testing
