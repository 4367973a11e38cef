#pragma once

#include <prometheus/counter.h>
#include <prometheus/family.h>
#include <prometheus/gauge.h>
#include <prometheus/histogram.h>
#include <prometheus/registry.h>

#include <functional>
#include <map>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

/// A family of series of one name, on prometheus-cpp, that remembers which label sets it has: so series can be found
/// again and dropped by their labels, which prometheus-cpp's own Family cannot. Used by the two catalogues of this
/// module. Writes are guarded by the caller (prometheus-cpp's references dangle once removed); scraping at the same
/// time is safe.
namespace moe {

using Labels = std::map<std::string, std::string>;

class AnySeriesFamily {
 public:
  AnySeriesFamily() = default;
  AnySeriesFamily(const AnySeriesFamily&) = delete;
  AnySeriesFamily& operator=(const AnySeriesFamily&) = delete;
  virtual ~AnySeriesFamily() = default;
  virtual void remove_if(const std::function<bool(const Labels&)>& chosen) = 0;
};

/// Base of a struct whose members are its families, declared with name and help where they stand.
class Catalogue {
 public:
  explicit Catalogue(prometheus::Registry& registry) : registry_(registry) {}
  Catalogue(const Catalogue&) = delete;
  Catalogue& operator=(const Catalogue&) = delete;

  prometheus::Registry& registry() { return registry_; }
  void enter(AnySeriesFamily& family) { families_.push_back(&family); }

  void remove_if(const std::function<bool(const Labels&)>& chosen) {
    for (AnySeriesFamily* family : families_) family->remove_if(chosen);
  }

 private:
  prometheus::Registry& registry_;
  std::vector<AnySeriesFamily*> families_;
};

template <typename T>
prometheus::detail::Builder<T> family_builder() {
  return {};
}

template <typename T>
class SeriesFamily : public AnySeriesFamily {
 public:
  /// buckets: inclusive upper bounds, for histograms only.
  SeriesFamily(Catalogue& catalogue, const std::string& name, const std::string& help, std::vector<double> buckets = {})
      : family_(family_builder<T>().Name(name).Help(help).Register(catalogue.registry())),
        buckets_(std::move(buckets)) {
    catalogue.enter(*this);
  }

  /// The series with these labels, made at its first use (counters and gauges at 0).
  T& at(const Labels& labels) {
    auto [entry, is_new] = series_.try_emplace(labels, nullptr);
    if (is_new) {
      if constexpr (std::is_same_v<T, prometheus::Histogram>) {
        entry->second = &family_.Add(labels, buckets_);
      } else {
        entry->second = &family_.Add(labels);
      }
    }
    return *entry->second;
  }

  void remove_if(const std::function<bool(const Labels&)>& chosen) override {
    for (auto entry = series_.begin(); entry != series_.end();) {
      if (chosen(entry->first)) {
        family_.Remove(entry->second);
        entry = series_.erase(entry);
      } else {
        ++entry;
      }
    }
  }

  /// Gauges: sets exactly these rows. Those that stay are never absent in between, for a scrape at the same time.
  void replace(const std::map<Labels, double>& rows) {
    for (const auto& [labels, value] : rows) at(labels).Set(value);
    remove_if([&](const Labels& labels) { return !rows.contains(labels); });
  }

 private:
  prometheus::Family<T>& family_;
  std::vector<double> buckets_;
  std::map<Labels, T*> series_;
};

using CounterFamily = SeriesFamily<prometheus::Counter>;
using GaugeFamily = SeriesFamily<prometheus::Gauge>;
using HistogramFamily = SeriesFamily<prometheus::Histogram>;

}  // namespace moe
