#pragma once

#include "kernels/backend.h"

namespace moe::kernels {

/// The CPU's matrix product: oneDNN for fp32 and bf16 where it was found (matmul_cpu.cc), the plain loop elsewhere.
void matmul_cpu(const Product& product);

/// Products that the library behind matmul_cpu has compiled code for since the program began, each some 0.3 ms: a
/// training must come to an end with them. 0 without oneDNN.
int64_t prepared_products();

/// Our own loops, blocked for the cache, on the threads of OpenMP. Every element is summed over k in order, panel by
/// panel, so a row's bits depend on nothing but that row. Any dtype; slower than oneDNN by an order of magnitude.
void matmul_plain(const Product& product);

}  // namespace moe::kernels
