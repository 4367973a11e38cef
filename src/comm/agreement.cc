#include "comm/agreement.h"

#include <limits.h>
#include <unistd.h>

#include <exception>
#include <vector>

#include "comm/device_errors.h"
#include "common/error.h"
#include "common/exit_code.h"

namespace moe {
namespace {

constexpr int kDifferencesShown = 5;

[[noreturn]] void throw_for(ExitCode code, const std::string& message) {
  switch (code) {
    case ExitCode::kUsage: throw_agreed<UsageError>(message);
    case ExitCode::kBadInput: throw_agreed<InvalidArgument>(message);
    case ExitCode::kHardware: throw_agreed<HardwareError>(message);
    case ExitCode::kStorage: throw_agreed<StorageError>(message);
    case ExitCode::kUnavailable: throw_agreed<Unavailable>(message);
    case ExitCode::kFenced: throw_agreed<Fenced>(message);
    case ExitCode::kHang: throw_agreed<Timeout>(message);
    case ExitCode::kDiverged: throw_agreed<Diverged>(message);
    case ExitCode::kNoReadableCheckpoint: throw_agreed<NoReadableCheckpoint>(message);
    default: throw_agreed<Internal>(message);
  }
}

}  // namespace

void agree(Communicator& world, std::string_view op, const std::function<void()>& work) {
  // One byte of exit code (0: fine), then the message.
  std::string status(1, '\0');
  try {
    with_device_errors(work);
  } catch (const std::exception& error) {
    status[0] = static_cast<char>(exit_code_for(error));
    status += message_of(error);
  }
  const std::vector<std::string> all = world.all_gather_bytes_after_work(status, op);
  for (size_t rank = 0; rank < all.size(); ++rank) {
    if (all[rank][0] == '\0') continue;
    const std::string who = rank == 0 ? "" : concat("rank ", rank, ": ");
    throw_for(static_cast<ExitCode>(all[rank][0]), who + all[rank].substr(1));
  }
}

std::string differences_between_ranks(Communicator& world, std::string_view op,
                                      const std::map<std::string, std::string>& facts) {
  char node[HOST_NAME_MAX + 1] = {};
  ::gethostname(node, sizeof node - 1);
  // Names may be paths, in which any byte but 0 can stand: length-prefixed, not JSON.
  std::string mine;
  const auto add = [&mine](const std::string& text) { mine += concat(text.size(), ':', text); };
  add(node);
  for (const auto& [name, value] : facts) {
    add(name);
    add(value);
  }
  // name -> value -> who has it
  std::map<std::string, std::map<std::string, std::string>> all;
  int rank = 0;
  for (const std::string& told : world.all_gather_bytes_after_work(mine, op)) {
    size_t at = 0;
    const auto next = [&] {
      const size_t colon = told.find(':', at), size = std::stoul(told.substr(at, colon - at));
      at = colon + 1 + size;
      return told.substr(colon + 1, size);
    };
    const std::string who = concat("rank ", rank++, " (", next(), ")");
    while (at < told.size()) {
      const std::string name = next();
      std::string& ranks = all[name][next()];
      ranks += (ranks.empty() ? "" : ", ") + who;
    }
  }
  std::string text;
  int count = 0;
  for (const auto& [name, values] : all) {
    if (values.size() < 2 || ++count > kDifferencesShown) continue;
    std::string line;
    for (const auto& [value, ranks] : values) line += concat(line.empty() ? "" : "; ", value, " on ", ranks);
    text += concat(text.empty() ? "" : "\n", name, ": ", line);
  }
  if (count > kDifferencesShown) text += concat("\nand ", count - kDifferencesShown, " more");
  return text;
}

void require_same_files(Communicator& world, std::string_view op, const std::map<std::string, std::string>& facts) {
  const std::string differences = differences_between_ranks(world, op, facts);
  if (differences.empty()) return;
  throw_agreed<StorageError>(
      concat("the ranks do not see the same (", op, "):\n", differences,
             "\nmake these the same on every node, or put them on storage that all nodes share"));
}

bool any_rank(Communicator& world, std::string_view op, bool yes) {
  at::Tensor votes = at::full({1}, yes ? 1 : 0, at::kLong);
  world.all_reduce_sum(votes, op);
  return votes.item<int64_t>() > 0;
}

std::string agree_on_result(Communicator& world, std::string_view op, const std::function<std::string()>& work) {
  std::string result;
  agree(world, op, [&] {
    if (world.rank() == 0) result = work();
  });
  return world.broadcast_bytes(result, 0, op);
}

}  // namespace moe
