#include "metrics/metrics.h"

#include <prometheus/registry.h>
#include <prometheus/text_serializer.h>

#include <algorithm>
#include <vector>

#include "metrics/process_metrics.h"

namespace moe {
namespace {

/// prometheus-cpp keeps series in hash order, which differs from scrape to scrape.
void sort_by_name(std::vector<prometheus::MetricFamily>& families) {
  std::sort(families.begin(), families.end(), [](const auto& a, const auto& b) { return a.name < b.name; });
  for (prometheus::MetricFamily& family : families) {
    std::sort(family.metric.begin(), family.metric.end(),
              [](const auto& a, const auto& b) { return a.label < b.label; });
  }
}

}  // namespace

MetricsPage::MetricsPage() : registry_(std::make_unique<prometheus::Registry>()), start_time_(process_start_time()) {}

MetricsPage::~MetricsPage() = default;

std::string MetricsPage::text() const {
  std::vector<prometheus::MetricFamily> families = registry_->Collect();
  std::erase_if(families, [](const auto& family) { return family.metric.empty(); });
  sort_by_name(families);
  for (prometheus::MetricFamily& family : process_metrics(start_time_)) families.push_back(std::move(family));
  return prometheus::TextSerializer().Serialize(families);
}

HttpResponse MetricsPage::response() const {
  return {200, "text/plain; version=0.0.4; charset=utf-8", text()};
}

}  // namespace moe
