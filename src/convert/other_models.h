#pragma once

#include "convert/converter.h"

/// The models beside the one that is converted: plans take their neurons and tensors by the numbers and names that they
/// have in it.
namespace moe {

/// Refuses one that is no dense model of the same shape. Throws InvalidArgument with the setting that differs, what it
/// is in both, and both paths.
void check_others(const ConvertRequest& request);

/// Logs a warning for one whose tokenizer spells ids otherwise: the result has the tokenizer of the model that is
/// converted, and that one's experts were trained on other tokens. One without a tokenizer is taken at its word.
void warn_of_other_tokenizers(const ConvertRequest& request);

}  // namespace moe
