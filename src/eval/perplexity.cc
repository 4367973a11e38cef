#include "eval/perplexity.h"

#include <algorithm>

#include "model/moe/expert_load.h"

namespace moe {
namespace {

/// Rows that one rank takes at a time.
constexpr int64_t kRowsPerRank = 4;

void add_values(const at::Tensor& values_T, const PackedBatch& batch, const std::vector<std::string>& names,
                TokenReport& report) {
  const at::Tensor values = values_T.to(at::kCPU, at::kDouble).contiguous();
  const double* value = values.const_data_ptr<double>();
  const int64_t* label = batch.labels_T.const_data_ptr<int64_t>();
  for (size_t sample = 0; sample < batch.domains.size(); ++sample) {
    TokenSum& domain = report.domains[names[batch.domains[sample]]];
    for (int64_t t = batch.cu_seqlens[sample]; t < batch.cu_seqlens[sample + 1]; ++t) {
      if (label[t] < 0) continue;
      domain.sum += value[t];
      ++domain.tokens;
    }
  }
}

/// Sums a report over the ranks; every rank knows the domains of all data.
void all_reduce(TokenReport& report, const std::vector<std::string>& domains, Communicator& world) {
  at::Tensor sums = at::zeros({static_cast<int64_t>(domains.size()), 2}, at::kDouble);
  for (size_t d = 0; d < domains.size(); ++d) {
    sums[d][0] = report.domains[domains[d]].sum;
    sums[d][1] = static_cast<double>(report.domains[domains[d]].tokens);
  }
  world.all_reduce_sum(sums, "evaluation losses");
  for (size_t d = 0; d < domains.size(); ++d) {
    report.domains[domains[d]] = {sums[d][0].item<double>(), static_cast<int64_t>(sums[d][1].item<double>())};
  }
}

}  // namespace

TokenSum TokenReport::total() const {
  TokenSum all;
  for (const auto& [name, domain] : domains) {
    all.sum += domain.sum;
    all.tokens += domain.tokens;
  }
  return all;
}

HeldOutData::HeldOutData(const std::vector<DataFile>& files, const std::shared_ptr<const Tokenizer>& tokenizer,
                         const HeldOutOptions& options) {
  PackingOptions packing = options.packing;
  packing.shuffle = false;
  // What does not fit a row is part of the held-out text all the same.
  packing.long_chats = "split";
  for (const DataFile& file : files) {
    Part part{std::make_unique<DataLoader>(std::vector<DataFile>{file}, tokenizer, packing), 0};
    const int64_t all = part.loader->rows();
    int64_t tokens = 0;
    while (part.rows < all && (options.max_tokens == 0 || tokens < options.max_tokens)) {
      part.loader->release_before(part.rows);
      tokens += part.loader->tokens(part.rows++, 1);
    }
    parts_.push_back(std::move(part));
  }
}

int64_t HeldOutData::rows() const {
  int64_t rows = 0;
  for (const Part& part : parts_) rows += part.rows;
  return rows;
}

std::map<std::string, std::string> HeldOutData::file_digests() const {
  std::map<std::string, std::string> digests;
  for (const Part& part : parts_) digests.merge(std::map(part.loader->file_digests()));
  return digests;
}

TokenReport measure_loss(const Decoder& decoder, TokenDispatcher& dispatcher, HeldOutData& data, Mesh& mesh,
                         const std::function<void(int64_t, int64_t)>& progress, const PassChoice& choice) {
  const TokenValues losses = [&decoder](const at::Tensor& hidden_TD, const at::Tensor& labels_T) {
    return decoder.token_losses(hidden_TD, labels_T);
  };
  return measure_tokens(decoder, dispatcher, data, mesh, losses, progress, choice);
}

TokenReport measure_tokens(const Decoder& decoder, TokenDispatcher& dispatcher, HeldOutData& data, Mesh& mesh,
                           const TokenValues& values, const std::function<void(int64_t, int64_t)>& progress,
                           const PassChoice& choice) {
  const at::NoGradGuard no_grad;
  TokenReport report;
  at::Tensor load_LE, attention_load_LE;
  const auto add_load = [](const std::vector<RouterStats>& routers, at::Tensor& sum_LE) {
    if (routers.empty()) return;
    const at::Tensor counts_LE = stacked_counts(routers);
    sum_LE = sum_LE.defined() ? sum_LE + counts_LE : counts_LE;
  };
  std::vector<std::string> domains;
  int64_t done = 0;
  PassChoice here = choice;
  for (HeldOutData::Part& part : data.parts()) {
    for (const std::string& name : part.loader->domain_names()) {
      if (std::find(domains.begin(), domains.end(), name) == domains.end()) domains.push_back(name);
    }
    const int64_t step = kRowsPerRank * mesh.world().size();
    for (int64_t first = 0; first < part.rows; first += step) {
      const int64_t rows = std::min(step, part.rows - first);
      part.loader->release_before(first);
      const Mesh::Share share = mesh.share_of(rows);
      const PackedBatch batch = part.loader->batch(first + share.first, share.count);
      const int64_t before = here.source.first_token;
      here.source.first_token = before + part.loader->tokens(first, share.first);
      const DecoderOutput out = decoder.forward({batch.tokens_T, batch.cu_seqlens}, dispatcher, {.choice = here});
      here.source.first_token = before + part.loader->tokens(first, rows);
      add_values(values(out.hidden_TD, batch.labels_T), batch, part.loader->domain_names(), report);
      add_load(out.router, load_LE);
      add_load(out.attention_router, attention_load_LE);
      done += rows;
      if (progress) progress(done, data.rows());
    }
  }
  all_reduce(report, domains, mesh.world());
  if (load_LE.defined()) mesh.world().all_reduce_sum(load_LE, "evaluation expert load");
  if (attention_load_LE.defined())
    mesh.world().all_reduce_sum(attention_load_LE, "evaluation load of attention's experts");
  report.expert_load = load_by_layer(decoder.config(), load_LE);
  report.attention_expert_load = attention_load_by_layer(decoder.config(), attention_load_LE);
  return report;
}

}  // namespace moe
