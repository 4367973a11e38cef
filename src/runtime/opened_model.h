#pragma once

#include <filesystem>
#include <memory>
#include <optional>
#include <string>

#include "checkpoint/model_directory.h"
#include "comm/communicator.h"
#include "data/chat/chat_templates.h"
#include "data/chat/directory_template.h"
#include "data/tokenizer/tokenizer.h"

/// The one way to open a model directory with what decides how text is read for it. Whoever needs a model's tensors one
/// at a time (a conversion, an export) works on this; whoever runs it loads it (loaded_model.h).
namespace moe {

/// How text becomes tokens for a model.
struct ModelText {
  std::shared_ptr<const Tokenizer> tokenizer;                           ///< null: text must come as ids
  ChatTemplateChoice chat_template{std::string(kDefaultChatTemplate)};  ///< a problem is thrown where a chat is read
};

/// A model directory that is open: its weights are mapped, and none of them is read.
struct OpenedModel {
  ModelDirectory directory;
  ModelText text;
};

/// What is opened beside config.json and weights.
struct TextNeeds {
  enum class TokenizerFile { kUnread, kIfThere, kRequired };

  /// It may have fewer tokens than the model has rows, or more (a pad token is often added without a row): an id
  /// without a row is refused where it occurs.
  TokenizerFile tokenizer = TokenizerFile::kUnread;
  /// Absent: none is chosen. Else this one if it is not empty, else the template that the model was trained with here,
  /// else the one that its directory brings along, as far as it is recognised, else plain_markers.
  std::optional<std::string> chat_template = std::nullopt;
};

/// What a job reads its text by: the tokenizer, if there is one, and the template that it names.
TextNeeds text_of_job(const std::string& chat_template);

/// Throws what ModelDirectory and Tokenizer throw, and InvalidArgument if the directory's template cannot be read.
OpenedModel open_model(const std::filesystem::path& path, const TextNeeds& needs = {});

/// The same on every rank; throws on all of them what one threw. Collective.
OpenedModel open_model(const std::filesystem::path& path, const TextNeeds& needs, Communicator& world);

}  // namespace moe
