#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>

#include "data/chat/directory_template.h"
#include "data/data_loader.h"
#include "data/tokenizer/tokenizer.h"
#include "model/model_config.h"
#include "moe/v1/job.pb.h"

/// What a job file leaves to the model: row length, chat template, tokenizer.
namespace moe {

/// `given` if set, else min(512, the model's maximum). Throws InvalidArgument if it is longer than the model allows.
int64_t sequence_length_for(const ModelConfig& config, int64_t given);

/// `given` if not empty, else the template that the model was trained with here, else the one that its directory brings
/// along, as far as it is recognised, else plain_markers. Throws InvalidArgument if the directory's template file
/// cannot be read.
ChatTemplateChoice chat_template_for(const std::filesystem::path& model, const ModelConfig& config,
                                     const std::string& given);

/// Null if the folder has no tokenizer file: then data must be {"ids"}. It may have fewer tokens than the model has
/// rows, or more (a pad token is often added without a row): an id without a row is refused where it occurs.
std::shared_ptr<const Tokenizer> tokenizer_for(const std::filesystem::path& model);

/// kFloat or kDouble.
at::ScalarType compute_type(const v1::GangSpec& gang);

}  // namespace moe
