#pragma once

#include "model/moe/slot_order.h"
#include "model/moe/token_dispatcher.h"

namespace moe {

/// Fills in what rows in expert order have of the tags of the tokens that they are of. `tags.sequences_T`: any numbers,
/// of which each stands for one sequence whose tokens lie together. One read from the device, of where the segments
/// are: attention wants their bounds on the host.
void add_tags(const TokenTags& tags, const SlotOrder& order, DispatchedTokens& dispatched);

}  // namespace moe
