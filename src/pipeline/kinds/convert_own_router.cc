#include "pipeline/kinds/convert_own_router.h"

namespace moe {

void check_own_router(const v1::RouterSpec& given, const v1::RouterSpec& usual, const std::string& method,
                      const FieldChecks& checks) {
  const std::string reason = concat(" with ffn.method '", method, "', which makes its own router; remove it");
  if (given.has_init() && given.init() != usual.init())
    checks.add("router.init", concat("has no effect (", given.init(), ")", reason));
  if (given.has_scaling() && given.scaling() != usual.scaling())
    checks.add("router.scaling", concat("has no effect (", given.scaling(), ")", reason));
  if (!given.options().empty()) checks.add("router.options", concat("has no effect", reason));
}

}  // namespace moe
