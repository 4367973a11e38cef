# oneDNN (libdnnl-dev) as moe::onednn, where it is installed. Its header must never be looked up in LibTorch's include
# folder, which carries another version.
find_path(MOE_DNNL_INCLUDE oneapi/dnnl/dnnl.hpp)
find_library(MOE_DNNL_LIBRARY dnnl)
if(MOE_DNNL_INCLUDE AND MOE_DNNL_LIBRARY)
  add_library(moe_onednn INTERFACE)
  target_include_directories(moe_onednn SYSTEM INTERFACE "${MOE_DNNL_INCLUDE}")
  target_link_libraries(moe_onednn INTERFACE "${MOE_DNNL_LIBRARY}")
  add_library(moe::onednn ALIAS moe_onednn)
endif()
