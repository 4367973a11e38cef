#include "export/exporter.h"

#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "checkpoint/dtypes.h"
#include "checkpoint/model_writer.h"
#include "checkpoint/tensor_assembly.h"
#include "comm/agreement.h"
#include "common/error.h"
#include "export/export_plan.h"
#include "export/export_report.h"

namespace moe {
namespace {

/// Tensors [first, last) that are written between two signs of life: those of a layer, or all before or after the
/// layers.
struct Unit {
  size_t first;
  size_t last;
};

std::vector<Unit> units_of(const std::vector<PiecedTensor>& tensors) {
  const std::string layers = "model.layers.";
  const auto place = [&layers](const std::string& name) {
    return name.rfind(layers, 0) == 0 ? name.substr(0, name.find('.', layers.size())) : "";
  };
  std::vector<Unit> units;
  for (size_t i = 0; i < tensors.size(); ++i) {
    const bool is_same = i > 0 && place(tensors[i].name) == place(tensors[i - 1].name);
    if (!is_same) units.push_back({i, i});
    units.back().last = i + 1;
  }
  return units;
}

/// Vectors of routers: a selection bias decides between scores that are closer than bfloat16 tells apart.
std::set<std::string> unrounded_tensors(const ModelConfig& config) {
  std::set<std::string> names;
  for (const TensorSpec& spec : logical_tensor_specs(config)) {
    if (spec.id.part == TensorPart::kSelectionBias || spec.id.part == TensorPart::kRouterGain) names.insert(spec.name);
  }
  return names;
}

class Exporter {
 public:
  Exporter(const ExportRequest& request, Communicator& world)
      : request_(request),
        world_(world),
        plan_(plan_export(request.source, request.spec)),
        exact_(unrounded_tensors(request.source.config())),
        assembly_("export", sources(), TensorAssembly::Rounding::kMeasured) {}

  nlohmann::json run() {
    agree(world_, "create " + request_.output.string(), [&] {
      if (world_.rank() == 0) open_writer();
    });
    const std::vector<Unit> units = units_of(plan_.contents.tensors);
    for (size_t i = 0; i < units.size(); ++i) {
      agree(world_, "write exported tensors", [&] {
        if (writer_) write(units[i]);
      });
      request_.monitor.unit_done({.phase = "exporting",
                                  .unit = "part",
                                  .done = static_cast<int64_t>(i + 1),
                                  .all = static_cast<int64_t>(units.size())});
    }
    return nlohmann::json::parse(
        agree_on_result(world_, "finish export", [&] { return writer_ ? finish().dump() : ""; }));
  }

 private:
  TensorAssembly::Sources sources() const {
    return {[this](const TensorPiece& piece) { return request_.source.tensor(piece.source); },
            [this](const TensorPiece& piece) { request_.source.release(piece.source); }};
  }

  /// "source": that of the first of our tensors that it holds; fillings take that of the embedding. What is small and
  /// must not be rounded is float32 whatever is asked for.
  at::ScalarType type_of(const PiecedTensor& tensor) const {
    if (!tensor.pieces.empty() && exact_.contains(tensor.pieces.front().source)) return at::kFloat;
    if (request_.spec.dtype() == "float32") return at::kFloat;
    if (request_.spec.dtype() == "bfloat16") return at::kBFloat16;
    return request_.source.tensor_type(tensor.pieces.empty() ? "model.embed_tokens.weight"
                                                             : tensor.pieces.front().source);
  }

  void open_writer() {
    std::vector<SafetensorsWriter::Spec> specs;
    for (const PiecedTensor& tensor : plan_.contents.tensors)
      specs.push_back({tensor.name, type_of(tensor), tensor.shape});
    writer_.emplace(request_.output, request_.source.path(), specs,
                    static_cast<uint64_t>(request_.spec.max_shard_bytes()));
  }

  void write(const Unit& unit) {
    for (size_t i = unit.first; i < unit.last; ++i) {
      const PiecedTensor& tensor = plan_.contents.tensors[i];
      writer_->write(tensor.name, assembly_.assemble(tensor, type_of(tensor)));
      for (const TensorPiece& piece : tensor.pieces) request_.source.release(piece.source);
    }
  }

  nlohmann::json finish() {
    const nlohmann::json report =
        export_report(plan_, request_.source, request_.spec,
                      {writer_->bytes(), writer_->shards(), assembly_.max_relative_rounding()});
    write_file_atomically(writer_->folder() / "export.json", report.dump(1) + "\n");
    writer_->finish(plan_.contents.config);
    return report;
  }

  const ExportRequest& request_;
  Communicator& world_;
  const ExportPlan plan_;
  const std::set<std::string> exact_;  ///< of our tensors
  TensorAssembly assembly_;
  std::optional<ModelDirectoryWriter> writer_;
};

}  // namespace

nlohmann::json export_model(const ExportRequest& request, Communicator& world) {
  const at::NoGradGuard no_grad;
  std::optional<Exporter> exporter;
  agree(world, "plan export", [&] { exporter.emplace(request, world); });
  return exporter->run();
}

}  // namespace moe
