#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

#include "moe/v1/job.pb.h"

/// A large model on disk, made fast, and what benchmarks of reading and writing it compare with. One thread calls it.
namespace moe::bench {

/// A folder that goes when the benchmark ends: below MOE_BENCH_DIR or, without it, the system's temporary folder.
class WorkFolder {
 public:
  WorkFolder();
  WorkFolder(const WorkFolder&) = delete;
  WorkFolder& operator=(const WorkFolder&) = delete;
  ~WorkFolder();
  std::filesystem::path operator/(const std::string& name) const { return path_ / name; }

 private:
  std::filesystem::path path_;
};

struct LlamaShape {
  std::string name;
  int64_t layers, hidden, width, vocab;
  int64_t head = 64;
};

/// A bf16 LLaMA directory (four heads to a KV head, untied) of random bits with exponents around 2^-5; one block
/// of them is written again and again.
void write_synthetic_llama(const std::filesystem::path& path, const LlamaShape& shape);

/// A conversion that only moves data: its router is random or zero, its output scale given.
v1::ConvertSpec slicing(const std::string& method, int experts, int top_k, const std::string& router_init);

/// The peer: reads and writes by the megabyte, and syncs.
void copy_and_sync(const std::filesystem::path& from, const std::filesystem::path& to);

}  // namespace moe::bench
