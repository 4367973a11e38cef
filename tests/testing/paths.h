#pragma once

#include <string>

/// Where the tests were built. They are no macros: a source whose command line says where it lies is compiled anew in
/// every checkout, one that does not comes out of ccache.
namespace moe::testing {

/// The checkout, without a slash at the end.
std::string source_dir();

/// The build folder; its programs are in bin/.
std::string build_dir();

}  // namespace moe::testing
