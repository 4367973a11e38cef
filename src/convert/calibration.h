#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "comm/communicator.h"
#include "convert/router_init.h"
#include "data/chat/directory_template.h"
#include "data/tokenizer/tokenizer.h"
#include "model/layer.h"
#include "model/model_config.h"
#include "moe/v1/job.pb.h"

namespace moe {

/// How calibration files become tokens.
struct CalibrationText {
  std::shared_ptr<const Tokenizer> tokenizer;  ///< may be null for {"ids"}
  ChatTemplateChoice chat_template;            ///< of {"messages"}; a problem is thrown if a file has chats
};

/// The calibration text on its way through the layers: this rank's share of the tokens, as hidden states of the dense
/// model (router features come from these) and of the model converted so far, on which output scales are fitted: a
/// layer sees what the layers before it will really give it. Measured as held-out loss after conversion, mean of 4
/// seeds, a scale fitted on the converted stream against one fitted on the dense stream: base-7m (8 experts,
/// top-2) 7.716 against 8.059, stories260k (4, top-2) 4.726 against 4.723; a fit of the converted stream's output to
/// the dense stream's is better on the one (7.537) and much worse on the other (5.384).
class CalibrationStream {
 public:
  /// Tokenises and packs as much text as `spec.calibration_tokens` asks for, or warns with the numbers if the files
  /// hold less: no document is taken twice, since what is read twice only weighs twice. Chats count whole, in pieces
  /// where they are longer than a row. Same rows at any number of ranks.
  CalibrationStream(const v1::ConvertSpec& spec, uint64_t seed, const ModelConfig& config, const CalibrationText& text,
                    Communicator& world);

  void embed(const at::Tensor& embedding_VD);
  /// The dense stream through a dense layer in float, the converted one through its attention; afterwards features()
  /// and ffn_inputs() are those of this layer.
  void attend(const Layer& layer);
  /// MLP inputs of the dense stream.
  const CalibrationFeatures& features() const { return features_; }
  /// MLP inputs of the converted stream. [T, D]
  const at::Tensor& ffn_inputs() const { return converted_input_; }
  /// Of the files, the tokenizer and how they were packed.
  const std::string& data_digest() const { return data_digest_; }
  /// XXH3-128 of each file's bytes, by path.
  const std::map<std::string, std::string>& file_digests() const { return file_digests_; }
  /// The template of the chats; empty if no file has any.
  const std::string& chat_template() const { return chat_template_; }
  /// Ends the layer: adds the FFN output of the converted stream.
  void advance(const at::Tensor& converted_output_TD);

 private:
  const ModelConfig& config_;
  at::Tensor tokens_;
  std::vector<int64_t> cu_seqlens_;
  RopeAngles rope_;
  LocalDispatcher dispatcher_;
  std::string data_digest_, chat_template_;
  std::map<std::string, std::string> file_digests_;
  at::Tensor dense_, converted_, converted_input_;
  CalibrationFeatures features_;
};

}  // namespace moe
