#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "data/chat/chat_encoding.h"
#include "data/chat/directory_template.h"
#include "data/tokenizer/tokenizer.h"

namespace moe {

/// One JSONL file of documents; documents.h says what a line may be.
struct DataFile {
  std::string path;
  double weight = 1;          ///< share of the mixture's tokens, relative to the other files
  std::string domain;         ///< name for reports
  int64_t max_documents = 0;  ///< 0: all
  SpecialTokens special_tokens = SpecialTokens::kAsText;  ///< that {"text"} lines spell
};

/// The files that a list of sources in a job file names (moe.v1.DataSource, or what has its fields: messages are not
/// known here).
template <typename Sources>
std::vector<DataFile> data_files(const Sources& sources) {
  std::vector<DataFile> files;
  for (const auto& source : sources)
    files.push_back({source.path(), source.weight(), source.domain(), source.max_documents(),
                     special_tokens_named(source.special_tokens())});
  return files;
}

struct PackingOptions {
  int64_t sequence_length = 512;                                        ///< tokens of a row
  bool append_eos = true;                                               ///< text documents: BOS + text + EOS
  ChatTemplateChoice chat_template{std::string(kDefaultChatTemplate)};  ///< a problem is thrown if a file has chats
  ChatEncodingOptions chat{};                                           ///< what of chats is learned
  std::string long_chats = "drop";  ///< "drop" | "truncate" | "split"; text is always split
  uint64_t seed = 0;                ///< order of documents
  bool shuffle = true;              ///< false: file order, one pass (evaluation)
  bool one_pass = false;            ///< with shuffle: rows end when every document was given once (calibration)
  int64_t vocab_size = 0;           ///< of the model: bound of all ids
};

/// Rows of tokens without padding, ready for the model.
struct PackedBatch {
  at::Tensor tokens_T;              ///< int64
  at::Tensor labels_T;              ///< int64, already shifted; -100 = no target
  std::vector<int64_t> cu_seqlens;  ///< sample boundaries, from 0 to T
  std::vector<int32_t> domains;     ///< [samples]: index into domain_names()
};

/// Documents -> tokens -> packed rows, by index: row i is the same on every rank, at every world size, after every
/// resume, so the position in the data is one integer. The plan (which samples share row i) depends on the files, the
/// options and the seed alone; it is made window by window (row_plan.h) as rows are asked for, and forgotten as they
/// are released. Throws InvalidArgument with file:line for a bad or empty line.
class DataLoader {
 public:
  DataLoader(std::vector<DataFile> files, std::shared_ptr<const Tokenizer> tokenizer, PackingOptions options);
  ~DataLoader();

  /// Rows of one pass (not where rows go on for ever).
  int64_t rows();
  bool has_row(int64_t row);
  /// Rows [first, first + count) as one batch. With shuffle, rows go on for ever (epoch after epoch), unless one_pass.
  PackedBatch batch(int64_t first, int64_t count);
  /// Targets (labels other than -100) in rows [first, first + count), without building them.
  int64_t target_tokens(int64_t first, int64_t count);
  int64_t tokens(int64_t first, int64_t count);

  /// Rows before this one will not be asked for soon: what the plan holds does not grow with the rows that were given.
  /// Asked for all the same, they are planned again from the beginning.
  void release_before(int64_t row);
  /// Where the plan is at a row, as a text for a checkpoint: go_to() there, and rows from this one on need nothing
  /// planned that came before. Throws InvalidArgument if the place is of other data.
  std::string place_of(int64_t row);
  void go_to(const std::string& place);
  /// Rows that the plan holds now.
  int64_t held_rows() const;

  const std::vector<std::string>& domain_names() const;
  /// Whether any document is a chat.
  bool has_chats() const;
  /// Changes when the files, the tokenizer or the options do; a resumed run compares it.
  std::string fingerprint() const;
  /// XXH3-128 of each file's bytes, by path.
  const std::map<std::string, std::string>& file_digests() const;
  /// Counts for the log: documents, dropped, truncated, tokens; rows planned at once and their fill, and rows of one
  /// pass over the data (in training, where documents go on in the next pass, as that fill lets expect).
  std::string summary() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace moe
