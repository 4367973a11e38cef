#include "data/data_loader.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "common/error.h"
#include "common/file_io.h"
#include "common/rng.h"
#include "data/documents.h"
#include "data/packing.h"

namespace moe {
namespace {

/// Samples that are packed together: enough for full rows, few enough that a row does not wait for the end of an epoch.
constexpr int64_t kWindow = 4096;
constexpr int64_t kNoTarget = -100;

/// `length` inputs of one document and their labels: what attention sees as one sequence. The label of an input is the
/// token that follows it in the document, also across a cut.
struct Sample {
  int64_t first = 0;    ///< index of its first input in the token store
  int64_t length = 0;   ///< inputs
  int64_t targets = 0;  ///< labels that are not masked
  int32_t domain = 0;
};

/// One file's samples; a document that was cut is several in a row, kept together in the order of documents.
struct Source {
  double weight = 1;
  std::vector<Sample> samples;
  std::vector<int64_t> document_begin;  ///< [documents + 1]: samples of each document
};

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
  std::vector<Source> sources;
  std::string fingerprint;
  Counts counts;

  // The plan: rows of samples, made window by window.
  std::vector<std::vector<Sample>> plan;
  std::vector<int64_t> source_tokens;              ///< given so far, per source
  std::vector<std::vector<int64_t>> source_order;  ///< this epoch's documents
  std::vector<int64_t> source_epoch, source_next;  ///< epoch, and place in source_order
  bool is_exhausted = false;                       ///< one pass is over
  uint32_t windows = 0;                            ///< planned so far

  int32_t domain_index(const std::string& name) {
    const auto found = std::find(domains.begin(), domains.end(), name);
    if (found != domains.end()) return static_cast<int32_t>(found - domains.begin());
    domains.push_back(name);
    return static_cast<int32_t>(domains.size() - 1);
  }

  void add_document(Source& source, const Document& document, const DataFile& file) {
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

  int64_t documents_of(size_t source) const { return static_cast<int64_t>(sources[source].document_begin.size()) - 1; }

  void start_epoch(size_t source) {
    const int64_t count = documents_of(source);
    if (options.shuffle) {
      const auto stream = static_cast<uint32_t>(source << 16 | (source_epoch[source] & 0xffff));
      source_order[source] = random_permutation(count, CounterRng(options.seed, kStreamDataOrder, stream));
    } else {
      source_order[source].resize(count);
      std::iota(source_order[source].begin(), source_order[source].end(), int64_t{0});
    }
    source_next[source] = 0;
  }

  /// Which source gives the next document: training, the one furthest behind its share of tokens; one pass, file after
  /// file.
  int64_t next_source() const {
    const auto count = static_cast<int64_t>(sources.size());
    if (!options.shuffle) {
      for (int64_t s = 0; s < count; ++s) {
        if (source_next[s] < documents_of(s)) return s;
      }
      return -1;
    }
    const int64_t total = std::accumulate(source_tokens.begin(), source_tokens.end(), int64_t{0});
    double weights = 0;
    for (const Source& source : sources) weights += source.weight;
    int64_t best = 0;
    double largest = -1e300;
    for (int64_t s = 0; s < count; ++s) {
      const double behind =
          sources[s].weight / weights * static_cast<double>(total + 1) - static_cast<double>(source_tokens[s]);
      if (behind > largest) {
        largest = behind;
        best = s;
      }
    }
    return best;
  }

  /// Plans the rows of one more window.
  void plan_window() {
    std::vector<Sample> window;
    while (static_cast<int64_t>(window.size()) < kWindow) {
      const int64_t s = next_source();
      if (s < 0) {
        is_exhausted = true;
        break;
      }
      if (options.shuffle && source_next[s] == documents_of(s)) {
        ++source_epoch[s];
        start_epoch(s);
      }
      const int64_t document = source_order[s][source_next[s]++];
      const Source& source = sources[s];
      for (int64_t i = source.document_begin[document]; i < source.document_begin[document + 1]; ++i) {
        window.push_back(source.samples[i]);
        source_tokens[s] += source.samples[i].length;
      }
    }
    std::vector<int64_t> lengths;
    for (const Sample& sample : window) lengths.push_back(sample.length);
    const std::vector<std::vector<int64_t>> rows = pack_first_fit_decreasing(lengths, options.sequence_length);
    std::vector<int64_t> order(rows.size());
    std::iota(order.begin(), order.end(), int64_t{0});
    // Packing puts long samples into early rows; in training every stretch of rows shall be like every other.
    if (options.shuffle) {
      const CounterRng rng(options.seed, kStreamRowOrder, windows++);
      order = random_permutation(static_cast<int64_t>(rows.size()), rng);
    }
    for (const int64_t row : order) {
      plan.emplace_back();
      for (const int64_t i : rows[row]) plan.back().push_back(window[i]);
    }
  }

  /// Makes the plan reach row `last`, if there is such a row.
  void plan_to(int64_t last) {
    while (static_cast<int64_t>(plan.size()) <= last && !is_exhausted) plan_window();
  }

  template <typename Visit>
  void for_each_sample(int64_t first, int64_t count, const Visit& visit) {
    plan_to(first + count - 1);
    MOE_CHECK(first >= 0 && first + count <= static_cast<int64_t>(plan.size()), "rows ", first, " to ", first + count,
              " of ", plan.size());
    for (int64_t row = first; row < first + count; ++row) {
      for (const Sample& sample : plan[row]) visit(sample);
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
  for (const DataFile& file : files) {
    const DocumentOptions reading{.append_eos = s.options.append_eos,
                                  .chat_template = s.options.chat_template,
                                  .chat = s.options.chat,
                                  .max_documents = file.max_documents,
                                  .vocab_size = s.options.vocab_size};
    Source source{file.weight, {}, {0}};
    for_each_document(file.path, tokenizer.get(), reading,
                      [&](const Document& document) { s.add_document(source, document, file); });
    if (source.samples.empty()) {
      throw InvalidArgument(concat(file.path, ": no document gives a training example (", s.counts.chats_dropped,
                                   " chats are longer than ", s.options.sequence_length,
                                   " tokens, long_documents: truncate keeps their beginning; ", s.counts.unsupervised,
                                   " have nothing to learn from)"));
    }
    s.sources.push_back(std::move(source));
    identity += concat("\n", xxh3_hex_of_file(file.path), " ", file.weight, " ", file.domain, " ", file.max_documents);
  }
  s.fingerprint = xxh3_hex(identity);
  s.source_tokens.assign(s.sources.size(), 0);
  s.source_order.resize(s.sources.size());
  s.source_epoch.assign(s.sources.size(), 0);
  s.source_next.assign(s.sources.size(), 0);
  for (size_t source = 0; source < s.sources.size(); ++source) s.start_epoch(source);
}

DataLoader::~DataLoader() = default;

int64_t DataLoader::rows() {
  MOE_CHECK(!state_->options.shuffle, "training rows have no end");
  while (!state_->is_exhausted) state_->plan_window();
  return static_cast<int64_t>(state_->plan.size());
}

PackedBatch DataLoader::batch(int64_t first, int64_t count) {
  State& s = *state_;
  std::vector<int64_t> tokens, labels, positions;
  PackedBatch batch;
  batch.cu_seqlens = {0};
  if (count > 0) {
    s.for_each_sample(first, count, [&](const Sample& sample) {
      for (int64_t i = 0; i < sample.length; ++i) {
        tokens.push_back(s.tokens[sample.first + i]);
        labels.push_back(s.labels[sample.first + i]);
        positions.push_back(i);
      }
      batch.cu_seqlens.push_back(static_cast<int64_t>(tokens.size()));
      batch.domains.push_back(sample.domain);
    });
  }
  batch.tokens_T = at::tensor(tokens, at::kLong);
  batch.labels_T = at::tensor(labels, at::kLong);
  batch.positions_T = at::tensor(positions, at::kLong);
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

std::string DataLoader::summary() const {
  const State& s = *state_;
  int64_t filled = 0;
  for (const auto& row : s.plan) {
    for (const Sample& sample : row) filled += sample.length;
  }
  const double capacity = static_cast<double>(s.plan.size()) * static_cast<double>(s.options.sequence_length);
  return concat("documents=", s.counts.documents, " tokens=", s.tokens.size(), " too_short=", s.counts.too_short,
                " chats_dropped=", s.counts.chats_dropped, " chats_truncated=", s.counts.chats_truncated,
                " without_target=", s.counts.unsupervised, " rows_planned=", s.plan.size(),
                " fill=", capacity > 0 ? static_cast<double>(filled) / capacity : 0.0);
}

}  // namespace moe
