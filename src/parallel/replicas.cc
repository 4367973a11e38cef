#include "parallel/replicas.h"

#include <cstddef>
#include <span>

#include "common/error.h"
#include "common/file_io.h"

namespace moe {

std::map<std::string, std::string> replica_digests(const std::vector<Parameter>& parameters) {
  std::map<std::string, std::string> digests;
  for (const Parameter& parameter : parameters) {
    const at::Tensor value = parameter.value.detach().cpu().contiguous();
    std::string name = parameter.name;
    if (parameter.is_expert) {
      name += concat(" (experts ", parameter.experts.first, " to ",
                     parameter.experts.first + parameter.experts.count - 1, ")");
    }
    digests[name] =
        xxh3_hex(std::span(static_cast<const std::byte*>(value.const_data_ptr()), static_cast<size_t>(value.nbytes())));
  }
  return digests;
}

}  // namespace moe
