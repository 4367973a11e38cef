#include "data/tokenizer/normalizer.h"

#include "common/error.h"

namespace moe {
namespace {

size_t most_bytes(size_t text) {
  return Normalizer::kMostGrowth * (text + 1024);
}

void check_size(size_t bytes, size_t text) {
  if (bytes > most_bytes(text)) {
    throw InvalidArgument(concat("the tokenizer's normalizer makes ", bytes, " bytes of ", text, "; at most ",
                                 most_bytes(text), " are supported"));
  }
}

AlignedText apply_node(const PrependNode& node, const AlignedText& text, AlignedBuffer& buffer) {
  check_size(text.bytes.size() + node.text.size(), text.bytes.size());
  return text.bytes.empty() ? text : with_prefix(text, node.text, buffer);
}

AlignedText apply_node(const ReplaceNode& node, const AlignedText& text, AlignedBuffer& buffer) {
  size_t count = 0;
  for (size_t at = text.bytes.find(node.pattern); at != std::string_view::npos;
       at = text.bytes.find(node.pattern, at + node.pattern.size()))
    ++count;
  check_size(text.bytes.size() + count * node.content.size(), text.bytes.size());
  return with_replaced(text, node.pattern, node.content, buffer);
}

AlignedText apply_node(const NfcNode& node, const AlignedText& text, AlignedBuffer& buffer) {
  return node.nfc->apply(text, buffer);
}

}  // namespace

AlignedText Normalizer::apply(const AlignedText& text, AlignedBuffer (&buffers)[2]) const {
  AlignedText now = text;
  for (const NormalizerNode& node : nodes_) {
    // The text may be in one of the buffers already.
    AlignedBuffer& free = now.bytes.data() == buffers[0].bytes.data() ? buffers[1] : buffers[0];
    now = std::visit([&](const auto& kind) { return apply_node(kind, now, free); }, node);
    check_size(now.bytes.size(), text.bytes.size());
  }
  return now;
}

}  // namespace moe
