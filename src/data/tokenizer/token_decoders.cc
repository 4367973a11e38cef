#include "data/tokenizer/token_decoders.h"

#include "data/tokenizer/byte_level.h"
#include "data/tokenizer/utf8.h"

namespace moe {

/// One node with its state; hands its tokens to the next one, the last one to the text.
class TokenDecoders::Stage {
 public:
  virtual ~Stage() = default;

  virtual void push(std::string token) = 0;
  virtual void finish() {}

  void connect(Stage* next) { next_ = next; }
  void write_to(std::string* text) { text_ = text; }

 protected:
  void pass_on(std::string token) {
    if (next_ != nullptr) {
      next_->push(std::move(token));
    } else {
      *text_ += token;
    }
  }

 private:
  Stage* next_ = nullptr;
  std::string* text_ = nullptr;  ///< of the last stage, during a call
};

namespace {

using Stage = TokenDecoders::Stage;

/// Nothing to do on tokens that are joined anyway; also the end of an empty list.
class FuseStage final : public Stage {
 public:
  void push(std::string token) override { pass_on(std::move(token)); }
};

class ByteLevelStage final : public Stage {
 public:
  void push(std::string token) override {
    const std::optional<std::string> bytes = byte_level_bytes(token);
    bytes_ += bytes ? *bytes : token;
    drain(/*is_end=*/false);
  }
  void finish() override { drain(/*is_end=*/true); }

 private:
  void drain(bool is_end) {
    std::string text;
    drain_utf8(bytes_, BrokenUtf8::kReplaceSequence, is_end, text);
    if (!text.empty()) pass_on(std::move(text));
  }

  std::string bytes_;
};

class ByteFallbackStage final : public Stage {
 public:
  void push(std::string token) override {
    if (const int byte = byte_of(token); byte >= 0) {
      bytes_ += static_cast<char>(byte);
      return;
    }
    finish();
    pass_on(std::move(token));
  }
  void finish() override {
    if (bytes_.empty()) return;
    if (find_invalid_utf8(bytes_) == std::string_view::npos) {
      pass_on(bytes_);
    } else {
      for (size_t i = 0; i < bytes_.size(); ++i) pass_on("\xEF\xBF\xBD");
    }
    bytes_.clear();
  }

 private:
  /// Of "<0xAB>", in either case; -1 for another token.
  static int byte_of(const std::string& token) {
    if (token.size() != 6 || token.compare(0, 3, "<0x") != 0 || token[5] != '>') return -1;
    const auto digit = [](char c) {
      return c >= '0' && c <= '9'   ? c - '0'
             : c >= 'a' && c <= 'f' ? c - 'a' + 10
             : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                    : -1;
    };
    // The library's parser takes a sign.
    const int high = token[3] == '+' ? 0 : digit(token[3]), low = digit(token[4]);
    return high < 0 || low < 0 ? -1 : high * 16 + low;
  }

  std::string bytes_;
};

class StripStage final : public Stage {
 public:
  StripStage(StripDecoderNode node, bool is_fused) : node_(std::move(node)), is_fused_(is_fused), left_(node_.start) {}

  void push(std::string token) override {
    if (!is_fused_) left_ = node_.start;
    size_t begin = 0;
    for (; left_ > 0 && token.compare(begin, node_.content.size(), node_.content) == 0; --left_)
      begin += node_.content.size();
    if (begin < token.size()) left_ = 0;
    size_t end = token.size();
    for (size_t i = 0; i < node_.stop && end >= begin + node_.content.size() &&
                       token.compare(end - node_.content.size(), node_.content.size(), node_.content) == 0;
         ++i) {
      end -= node_.content.size();
    }
    pass_on(token.substr(begin, end - begin));
  }

 private:
  StripDecoderNode node_;
  bool is_fused_;  ///< the tokens are parts of one
  size_t left_;    ///< times that the content may still be taken away in front
};

class ReplaceStage final : public Stage {
 public:
  explicit ReplaceStage(ReplaceDecoderNode node) : node_(std::move(node)) {}

  void push(std::string token) override {
    std::string result;
    size_t begin = 0;
    for (size_t found; (found = token.find(node_.pattern, begin)) != std::string::npos;
         begin = found + node_.pattern.size()) {
      result.append(token, begin, found - begin) += node_.content;
    }
    pass_on(result.append(token, begin));
  }

 private:
  ReplaceDecoderNode node_;
};

/// A Replace of its own for the first token.
class MetaspaceStage final : public Stage {
 public:
  explicit MetaspaceStage(const MetaspaceDecoderNode& node)
      : first_({node.replacement, node.drops_first ? "" : " "}), others_({node.replacement, " "}) {}

  void push(std::string token) override {
    std::string result;
    ReplaceStage& stage = is_first_ ? first_ : others_;
    is_first_ = false;
    stage.write_to(&result);
    stage.push(std::move(token));
    pass_on(std::move(result));
  }

 private:
  ReplaceStage first_, others_;
  bool is_first_ = true;
};

template <typename... Kinds>
struct Overloaded : Kinds... {
  using Kinds::operator()...;
};
template <typename... Kinds>
Overloaded(Kinds...) -> Overloaded<Kinds...>;

bool makes_one(const DecoderNode& node) {
  return std::holds_alternative<ByteLevelDecoderNode>(node) || std::holds_alternative<FuseDecoderNode>(node);
}

std::unique_ptr<Stage> make_stage(const DecoderNode& node, bool is_fused) {
  return std::visit(
      Overloaded{
          [](const ByteLevelDecoderNode&) -> std::unique_ptr<Stage> { return std::make_unique<ByteLevelStage>(); },
          [](const ByteFallbackDecoderNode&) -> std::unique_ptr<Stage> {
            return std::make_unique<ByteFallbackStage>();
          },
          [](const FuseDecoderNode&) -> std::unique_ptr<Stage> { return std::make_unique<FuseStage>(); },
          [&](const StripDecoderNode& strip) -> std::unique_ptr<Stage> {
            return std::make_unique<StripStage>(strip, is_fused);
          },
          [](const ReplaceDecoderNode& replace) -> std::unique_ptr<Stage> {
            return std::make_unique<ReplaceStage>(replace);
          },
          [](const MetaspaceDecoderNode& metaspace) -> std::unique_ptr<Stage> {
            return std::make_unique<MetaspaceStage>(metaspace);
          }},
      node);
}

}  // namespace

std::string why_not_streamable(const std::vector<DecoderNode>& nodes) {
  bool is_fused = false;
  for (const DecoderNode& node : nodes) {
    const auto* const strip = std::get_if<StripDecoderNode>(&node);
    if (is_fused && strip != nullptr && strip->stop > 0)
      return "a Strip with `stop` behind a node that joins all tokens";
    if (is_fused && strip == nullptr && !std::holds_alternative<FuseDecoderNode>(node))
      return "a node other than Strip and Fuse behind one that joins all tokens";
    is_fused = is_fused || makes_one(node);
  }
  return "";
}

TokenDecoders::TokenDecoders(const std::vector<DecoderNode>& nodes) {
  bool is_fused = false;
  for (const DecoderNode& node : nodes) {
    stages_.push_back(make_stage(node, is_fused));
    is_fused = is_fused || makes_one(node);
  }
  if (stages_.empty()) stages_.push_back(std::make_unique<FuseStage>());
  for (size_t i = 0; i + 1 < stages_.size(); ++i) stages_[i]->connect(stages_[i + 1].get());
}

TokenDecoders::~TokenDecoders() = default;

void TokenDecoders::push(const std::string& token, std::string& text) {
  stages_.back()->write_to(&text);
  stages_.front()->push(token);
}

void TokenDecoders::finish(std::string& text) {
  stages_.back()->write_to(&text);
  for (const std::unique_ptr<Stage>& stage : stages_) stage->finish();
}

}  // namespace moe
