#include "data/data_loader.h"

#include <algorithm>
#include <cmath>

#include "common/error.h"
#include "common/file_io.h"
#include "data/documents.h"
#include "data/row_plan.h"

namespace moe {
namespace {

constexpr int64_t kNoTarget = -100;

struct Counts {
  int64_t documents = 0, chats = 0, too_short = 0, chats_dropped = 0, chats_truncated = 0, unsupervised = 0;
};

void check_options(const std::vector<DataFile>& files, const PackingOptions& options) {
  if (files.empty()) throw InvalidArgument("no data file is given");
  if (options.sequence_length < 1) {
    throw InvalidArgument(concat("sequence_length ", options.sequence_length, " is not positive"));
  }
  if (options.long_chats != "drop" && options.long_chats != "truncate" && options.long_chats != "split") {
    throw InvalidArgument(concat("long_documents '", options.long_chats, "' is unknown; known: drop, truncate, split"));
  }
  for (const DataFile& file : files) {
    if (!std::isfinite(file.weight) || file.weight <= 0) {
      throw InvalidArgument(concat(file.path, ": weight ", file.weight, " is not a positive number"));
    }
  }
}

}  // namespace

struct DataLoader::State {
  PackingOptions options;
  std::vector<std::string> domains;
  std::vector<int32_t> tokens;  ///< all documents end to end
  std::vector<int32_t> labels;  ///< label of the input at the same place
  std::map<std::string, std::string> file_digests;
  std::string fingerprint;
  Counts counts;
  std::unique_ptr<RowPlan> plan;
  /// For the log: of the first window, and of one pass.
  int64_t planned_rows = 0, rows_per_pass = 0;
  double fill = 0;

  int32_t domain_index(const std::string& name) {
    const auto found = std::find(domains.begin(), domains.end(), name);
    if (found != domains.end()) return static_cast<int32_t>(found - domains.begin());
    domains.push_back(name);
    return static_cast<int32_t>(domains.size() - 1);
  }

  void add_document(SampleSource& source, const Document& document, const DataFile& file) {
    ++counts.documents;
    counts.chats += document.is_chat ? 1 : 0;
    // n ids give n - 1 inputs with labels.
    int64_t inputs = static_cast<int64_t>(document.ids.size()) - 1;
    const int64_t length = options.sequence_length;
    if (document.is_chat && inputs > length && options.long_chats == "drop") {
      ++counts.chats_dropped;
      return;
    }
    if (document.is_chat && inputs > length && options.long_chats == "truncate") {
      ++counts.chats_truncated;
      inputs = length;
    }
    if (inputs < 1) {
      ++counts.too_short;
      return;
    }
    const int32_t domain = domain_index(document.domain.empty() ? file.domain : document.domain);
    const size_t samples_before = source.samples.size();
    for (int64_t done = 0; done < inputs; done += length) {
      Sample sample{static_cast<int64_t>(tokens.size()), std::min(length, inputs - done), 0, domain};
      for (int64_t i = done; i < done + sample.length; ++i) {
        const bool is_target = document.supervised[i + 1] != 0;
        tokens.push_back(document.ids[i]);
        labels.push_back(is_target ? document.ids[i + 1] : static_cast<int32_t>(kNoTarget));
        sample.targets += is_target ? 1 : 0;
      }
      if (sample.targets > 0) {
        source.samples.push_back(sample);
      } else {
        ++counts.unsupervised;
      }
    }
    if (source.samples.size() > samples_before) {
      source.document_begin.push_back(static_cast<int64_t>(source.samples.size()));
    }
  }

  /// How full the rows of the first window are, and so how many rows a pass over the data makes (of one pass: exactly).
  void measure_rows() {
    int64_t all = 0, planned = 0;
    for (const SampleSource& source : plan->sources()) {
      for (const Sample& sample : source.samples) all += sample.length;
    }
    plan->row(0);
    planned_rows = plan->held_rows();
    for (int64_t row = 0; row < planned_rows; ++row) {
      for (const Sample& sample : plan->row(row)) planned += sample.length;
    }
    const auto length = static_cast<double>(options.sequence_length);
    fill = static_cast<double>(planned) / (static_cast<double>(planned_rows) * length);
    rows_per_pass = options.shuffle && !options.one_pass
                        ? std::llround(std::ceil(static_cast<double>(all) / (length * fill)))
                        : plan->count();
  }

  template <typename Visit>
  void for_each_sample(int64_t first, int64_t count, const Visit& visit) {
    for (int64_t row = first; row < first + count; ++row) {
      for (const Sample& sample : plan->row(row)) visit(sample);
    }
  }
};

DataLoader::DataLoader(std::vector<DataFile> files, std::shared_ptr<const Tokenizer> tokenizer, PackingOptions options)
    : state_(std::make_unique<State>()) {
  check_options(files, options);
  State& s = *state_;
  s.options = std::move(options);
  std::string identity =
      concat(s.options.sequence_length, s.options.append_eos, s.options.chat_template.name, s.options.long_chats,
             s.options.seed, s.options.shuffle, tokenizer ? tokenizer->digest() : "");
  if (s.options.chat.supervise != "all" || s.options.chat.drop_system) {
    identity += concat(" supervise=", s.options.chat.supervise, s.options.chat.drop_system);
  }
  std::vector<SampleSource> sources;
  for (const DataFile& file : files) {
    const DocumentOptions reading{.append_eos = s.options.append_eos,
                                  .chat_template = s.options.chat_template,
                                  .chat = s.options.chat,
                                  .max_documents = file.max_documents,
                                  .special_tokens = file.special_tokens,
                                  .vocab_size = s.options.vocab_size};
    SampleSource source;
    source.weight = file.weight;
    for_each_document(file.path, tokenizer.get(), reading,
                      [&](const Document& document) { s.add_document(source, document, file); });
    if (source.samples.empty()) {
      throw InvalidArgument(concat(file.path, ": no document gives a training example (", s.counts.chats_dropped,
                                   " chats are longer than ", s.options.sequence_length,
                                   " tokens, long_documents: truncate keeps their beginning; ", s.counts.unsupervised,
                                   " have nothing to learn from)"));
    }
    sources.push_back(std::move(source));
    const std::string& digest = s.file_digests[file.path] = xxh3_hex_of_file(file.path);
    identity += concat("\n", digest, " ", file.weight, " ", file.domain, " ", file.max_documents);
    if (file.special_tokens == SpecialTokens::kParse) identity += " special_tokens=parse";
  }
  if (s.options.one_pass) identity += " one_pass";
  s.fingerprint = xxh3_hex(identity);
  s.plan = std::make_unique<RowPlan>(std::move(sources), RowPlanOptions{s.options.sequence_length, s.options.seed,
                                                                        s.options.shuffle, s.options.one_pass});
  s.measure_rows();
}

DataLoader::~DataLoader() = default;

int64_t DataLoader::rows() {
  return state_->plan->count();
}

void DataLoader::release_before(int64_t row) {
  state_->plan->release_before(row);
}
std::string DataLoader::place_of(int64_t row) {
  return state_->plan->cursor(row).to_text();
}
void DataLoader::go_to(const std::string& place) {
  state_->plan->seek(PlanCursor::from_text(place, state_->plan->sources().size()));
}
int64_t DataLoader::held_rows() const {
  return state_->plan->held_rows();
}

bool DataLoader::has_row(int64_t row) {
  return state_->plan->has_row(row);
}

PackedBatch DataLoader::batch(int64_t first, int64_t count) {
  State& s = *state_;
  std::vector<int64_t> tokens, labels;
  PackedBatch batch;
  batch.cu_seqlens = {0};
  if (count > 0) {
    s.for_each_sample(first, count, [&](const Sample& sample) {
      for (int64_t i = 0; i < sample.length; ++i) {
        tokens.push_back(s.tokens[sample.first + i]);
        labels.push_back(s.labels[sample.first + i]);
      }
      batch.cu_seqlens.push_back(static_cast<int64_t>(tokens.size()));
      batch.domains.push_back(sample.domain);
    });
  }
  batch.tokens_T = at::tensor(tokens, at::kLong);
  batch.labels_T = at::tensor(labels, at::kLong);
  return batch;
}

int64_t DataLoader::target_tokens(int64_t first, int64_t count) {
  int64_t targets = 0;
  if (count > 0) state_->for_each_sample(first, count, [&](const Sample& sample) { targets += sample.targets; });
  return targets;
}

int64_t DataLoader::tokens(int64_t first, int64_t count) {
  int64_t tokens = 0;
  if (count > 0) state_->for_each_sample(first, count, [&](const Sample& sample) { tokens += sample.length; });
  return tokens;
}

const std::vector<std::string>& DataLoader::domain_names() const {
  return state_->domains;
}
bool DataLoader::has_chats() const {
  return state_->counts.chats > 0;
}
std::string DataLoader::fingerprint() const {
  return state_->fingerprint;
}
const std::map<std::string, std::string>& DataLoader::file_digests() const {
  return state_->file_digests;
}

std::string DataLoader::summary() const {
  const State& s = *state_;
  return concat("documents=", s.counts.documents, " tokens=", s.tokens.size(), " too_short=", s.counts.too_short,
                " chats_dropped=", s.counts.chats_dropped, " chats_truncated=", s.counts.chats_truncated,
                " without_target=", s.counts.unsupervised, " rows_planned=", s.planned_rows, " fill=", s.fill,
                " rows_per_pass=", s.rows_per_pass);
}

}  // namespace moe
