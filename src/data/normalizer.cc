#include "data/normalizer.h"

namespace moe {
namespace {

AlignedText apply_node(const PrependNode& node, const AlignedText& text, AlignedBuffer& buffer) {
  return text.bytes.empty() ? text : with_prefix(text, node.text, buffer);
}

AlignedText apply_node(const ReplaceNode& node, const AlignedText& text, AlignedBuffer& buffer) {
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
  }
  return now;
}

}  // namespace moe
