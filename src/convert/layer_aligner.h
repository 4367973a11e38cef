#pragma once

#include <ATen/core/Tensor.h>

#include <functional>
#include <string>

#include "comm/communicator.h"
#include "convert/calibration_pass.h"
#include "convert/channel_alignment.h"
#include "convert/conversion.h"

namespace moe {

/// What makes a converted layer's output, [T, D] on the converted stream, statistically that of the dense layer on the
/// dense stream (scale.alignment of `conversion`, not "none"). `pass` is at this layer. Collective.
ChannelAlignment align_layer(const Conversion& conversion, const CalibrationPass& pass, const FeedForwardWeights& dense,
                             const at::Tensor& output_TD, Communicator& world);

/// Aligns layers that were reconstructed, each on what those before it give, reconstructed and aligned: the text goes
/// through all layers once more. `layer_done` is collective.
void align_reconstructed(Conversion& conversion, CalibrationPass& pass, Communicator& world,
                         const std::function<void()>& layer_done);

}  // namespace moe
