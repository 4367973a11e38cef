#pragma once

#include <string>
#include <vector>

#include "data/documents.h"

namespace moe::testing {

/// The documents of a file, all at once.
inline std::vector<Document> read_documents(const std::string& path, const Tokenizer* tokenizer,
                                            const DocumentOptions& options) {
  std::vector<Document> documents;
  for_each_document(path, tokenizer, options,
                    [&documents](const Document& document) { documents.push_back(document); });
  return documents;
}

}  // namespace moe::testing
