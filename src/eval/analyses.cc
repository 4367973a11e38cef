#include "eval/analyses.h"

namespace moe {

// One file each, in analyses/.
Analysis activation_histograms();
Analysis activation_scale();
Analysis hidden_clusters();
Analysis hidden_projection();
Analysis neuron_overlap();
Analysis routing();
Analysis routing_similarity();
Analysis weights();

const Registry<Analysis>& analyses() {
  static const Registry<Analysis> all("analysis", {
                                                      {"weights", weights()},
                                                      {"neuron_overlap", neuron_overlap()},
                                                      {"routing", routing()},
                                                      {"routing_similarity", routing_similarity()},
                                                      {"activation_scale", activation_scale()},
                                                      {"activation_histograms", activation_histograms()},
                                                      {"hidden_clusters", hidden_clusters()},
                                                      {"hidden_projection", hidden_projection()},
                                                  });
  return all;
}

std::vector<std::string> text_analyses() {
  std::vector<std::string> names;
  for (const std::string& name : analyses().names()) {
    if (analyses().at(name).needs_text()) names.push_back(name);
  }
  return names;
}

}  // namespace moe
