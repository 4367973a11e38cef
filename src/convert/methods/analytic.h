#pragma once

#include "convert/conversion_method.h"

namespace moe {

/// `analytic`: experts from the tokens that neurons are active on, in closed form. With x and the rows of gate and up
/// as unit vectors, each token marks its `marks` neurons of the largest |silu(gate x) * up x|. The shared part takes
/// the neurons with the most marks. The mark columns of the next most marked are the experts' centroids, and the rest
/// is spread over them once, equally, at the least sum of L1 distances between mark columns (balanced_assignment:
/// exactly). All of it is counting, so that it is the same at any number of ranks.
///
/// Router   With router.gate product what the paper routes by: |(x u) silu(x g)|, with g and u the unit gate and up
/// rows
///          of the expert's representative, the neuron whose marks are nearest (L1) to the mean of the expert's. With
///          linear, per expert the row that fits that best, by ridge regression on the calibration tokens.
/// Source   CMoE (arXiv:2502.04416). Marks are those of the dense model's tokens; the paper's are of the part converted
///          before, which depends on the number of ranks in its last bits.
ConversionMethod analytic();

}  // namespace moe
