#include "eval/analyses.h"

namespace moe {

// One file each, in analyses/.
Analysis activation_scale();
Analysis hidden_clusters();
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
                                                      {"hidden_clusters", hidden_clusters()},
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
