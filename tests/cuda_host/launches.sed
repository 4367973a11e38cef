# What no C++ compiler but nvcc reads: launches, and arrays of dynamic shared memory. Each must stand on one line, or the
# compiler says so.
s/<<<\(.*\)>>>(/ ->*::moe::cuda_host::configured(\1)(/
s/extern __shared__ *\(__align__\|alignas\)([0-9]*)/extern __shared__/
s/extern __shared__ \(.*[ )]\)\([A-Za-z_][A-Za-z_0-9]*\)\[\];/auto* const \2 = static_cast<std::remove_cvref_t<\1>*>(::moe::cuda_host::dynamic_shared_memory());/
