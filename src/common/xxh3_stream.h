#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <string>

namespace moe {

/// XXH3-128 of bytes that come piece by piece, for writers that would otherwise read their file again. The digests are
/// those of xxh3_hex (file_io.h). Not for concurrent use.
class Xxh3Stream {
 public:
  Xxh3Stream();
  ~Xxh3Stream();
  Xxh3Stream(const Xxh3Stream&) = delete;
  Xxh3Stream& operator=(const Xxh3Stream&) = delete;

  void add(std::span<const std::byte> bytes);
  /// Of what was added so far, as 32 hex digits.
  std::string hex() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace moe
