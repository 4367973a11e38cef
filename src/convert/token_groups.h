#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>
#include <vector>

#include "comm/communicator.h"
#include "convert/conversion_method.h"

/// Ways to group calibration tokens, for importance by group: the same groups on every rank and at any number of them,
/// bit for bit. Collective. `inputs` and `hidden_TD` as of GroupTokens.
namespace moe {

/// Why so few documents cannot be grouped, as the end of an error; empty if they can.
std::string too_few_documents(const std::string& method, int64_t documents, int64_t groups);

/// By document: k-means over the documents' states in the middle of the dense model. A document is the mean of its
/// tokens, each brought to length 1 (the first ones of many models are a hundred times longer than the others), and
/// then itself of length 1. The clusters are those of the whole model, the same in every layer.
/// Source   LLaMA-MoE v1, which embeds text with another model.
/// Throws   InvalidArgument on every rank if there are fewer documents than groups.
TokenGroups group_by_text(const LayerInputs& inputs, const std::vector<at::Tensor>& hidden_TD, int64_t groups,
                          Communicator& world);

/// By token: the group whose feature_centroids() row has the largest product with the token's FFN input, the lower one
/// of equal ones. The rows are kept as group_rows_GD; router.init hidden_clustering makes the same.
/// Source   LLaMA-MoE v2 (split_gradient_get_grads_v2.py): the product, not the distance.
TokenGroups group_by_router(const LayerInputs& inputs, int64_t groups, Communicator& world);

}  // namespace moe
