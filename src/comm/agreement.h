#pragma once

#include <functional>
#include <map>
#include <string>
#include <string_view>

#include "comm/communicator.h"

/// Errors that all ranks know of. What one rank alone may fail at (reading a file, writing a shard) is done inside
/// agree(): if any rank failed, every rank throws the first one's error, so that none is left waiting in a collective
/// and one report is enough. What one rank alone may need long for (hashing a model) is done there too: the others wait
/// for it beyond the time limit of a collective.
namespace moe {

/// Marks an exception that every rank of the group threw at the same point. Not an exception itself.
class AgreedError {
 public:
  virtual ~AgreedError() = default;
};

/// An `E` (a type of common/error.h) that all ranks threw.
template <typename E>
class Agreed final : public E, public AgreedError {
 public:
  using E::E;
};

/// For an error that every rank finds by the same computation on the same values.
template <typename E>
[[noreturn]] void throw_agreed(const std::string& message) {
  throw Agreed<E>(message);
}

/// Runs `work` (no collectives in it) on every rank. Throws Agreed<E> on all of them if it threw on any: the type and
/// message of the lowest failing rank, named where it is not rank 0.
void agree(Communicator& world, std::string_view op, const std::function<void()>& work);

/// Tells every rank's `facts` (name -> value) to all. A line for each name whose value is not the same on all ranks
/// that have it, with who has which (five names, and how many more): "data/a.jsonl: 6f… on rank 0 (node-1), rank 2
/// (node-1); 11… on rank 1 (node-2)". Empty if there is none; the same on every rank.
std::string differences_between_ranks(Communicator& world, std::string_view op,
                                      const std::map<std::string, std::string>& facts);

/// Throws Agreed<StorageError> that lists the differences: for what ranks read from files, and a gang whose nodes see
/// the same files would agree on. Another gang, or this one once its files are mended, can do the work.
void require_same_files(Communicator& world, std::string_view op, const std::map<std::string, std::string>& facts);

/// Whether any rank says yes; the same on every rank. Collective.
bool any_rank(Communicator& world, std::string_view op, bool yes);

/// Rank 0 runs `work` and every rank gets its result, or its error as agree() throws it.
std::string agree_on_result(Communicator& world, std::string_view op, const std::function<std::string()>& work);

}  // namespace moe
