// Encodes documents with a tokenizer, driven line by line by tokenizer_vs_tokenizers.py: a JSON request in, a JSON
// result out.
//
//   {"tokenizer": DIRECTORY, "documents": FILE}     loads both; FILE: u32 size and bytes of each document
//   {"threads": N}                                  encodes all of them once, ids and offsets, and frees the result

#include <sys/resource.h>

#include <chrono>
#include <cstring>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "common/error.h"
#include "common/file_io.h"
#include "data/tokenizer/tokenizer.h"
#include "help.h"

namespace moe {
namespace {

using nlohmann::json;
using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

double cpu_seconds() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& time) {
    return static_cast<double>(time.tv_sec) + 1e-6 * static_cast<double>(time.tv_usec);
  };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

struct Loaded {
  std::shared_ptr<const Tokenizer> tokenizer;
  std::string bytes;
  std::vector<std::string_view> documents;
};

Loaded load(const json& request) {
  Loaded loaded;
  loaded.tokenizer = Tokenizer::from_directory(request.at("tokenizer").get<std::string>());
  loaded.bytes = read_file(request.at("documents").get<std::string>());
  for (size_t at = 0; at < loaded.bytes.size();) {
    uint32_t size = 0;
    std::memcpy(&size, loaded.bytes.data() + at, sizeof size);
    loaded.documents.push_back(std::string_view(loaded.bytes).substr(at + sizeof size, size));
    at += sizeof size + size;
  }
  return loaded;
}

json encode(const Loaded& loaded, int threads) {
  const Clock::time_point start = Clock::now();
  const double cpu_start = cpu_seconds();
  const std::vector<Encoding> encodings =
      loaded.tokenizer->encode_batch(loaded.documents, threads, SpecialTokens::kParse);
  const double seconds = seconds_since(start), cpu = cpu_seconds() - cpu_start;
  int64_t tokens = 0, checksum = 0;
  for (const Encoding& encoding : encodings) {
    tokens += static_cast<int64_t>(encoding.ids.size());
    for (size_t i = 0; i < encoding.ids.size(); ++i) checksum += encoding.ids[i] + encoding.offsets[i].second;
  }
  return {{"seconds", seconds}, {"cpu_seconds", cpu}, {"tokens", tokens}, {"checksum", checksum}};
}

int run() {
  Loaded loaded;
  for (std::string line; std::getline(std::cin, line);) {
    const json request = json::parse(line);
    if (request.contains("tokenizer")) {
      const Clock::time_point start = Clock::now();
      const double cpu_start = cpu_seconds();
      loaded = load(request);
      std::cout << json({{"seconds", seconds_since(start)},
                         {"cpu_seconds", cpu_seconds() - cpu_start},
                         {"documents", loaded.documents.size()}})
                << std::endl;
    } else {
      std::cout << encode(loaded, request.at("threads").get<int>()) << std::endl;
    }
  }
  return 0;
}

}  // namespace
}  // namespace moe

int main(int argc, char** argv) {
  if (moe::is_help_wanted(argc, argv) || argc > 1) {
    std::cout
        << "Encodes documents with a tokenizer; benchmarks/tokenizer_vs_tokenizers.py drives it line by line.\n"
           "usage: moe_tokenizer_bench < REQUESTS, each a line of JSON:\n"
           "  {\"tokenizer\": DIRECTORY, \"documents\": FILE}   loads both; FILE: u32 size and bytes of each document\n"
           "  {\"threads\": N}                                encodes all of them once\n";
    return moe::is_help_wanted(argc, argv) ? 0 : 64;
  }
  try {
    return moe::run();
  } catch (const std::exception& error) {
    std::cerr << "tokenizer_bench: " << error.what() << "\n";
    return 1;
  }
}
