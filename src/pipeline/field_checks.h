#pragma once

#include <google/protobuf/repeated_field.h>

#include <string>
#include <utility>
#include <vector>

#include "common/error.h"
#include "moe/v1/job.pb.h"
#include "pipeline/known_names.h"
#include "pipeline/problem.h"

/// Checks of single fields in one voice: "must be at least 1 (0)", "unknown value (x); known: a, b".
namespace moe {

/// Adds problems with the place that a path was written at.
class ProblemSink {
 public:
  ProblemSink(const SourceMap& sources, Problems& problems) : sources_(sources), problems_(problems) {}
  void add(const std::string& path, std::string message) {
    problems_.push_back({sources_.where(path), path, std::move(message)});
  }

 private:
  const SourceMap& sources_;
  Problems& problems_;
};

/// The fields of one section, for example "stages.stage1.train" (or "", the top level). `field` is a field of it,
/// dotted where it lies deeper. An absent field (`is_set` false) is no problem.
class FieldChecks {
 public:
  FieldChecks(std::string section, const KnownNames& known, ProblemSink& sink)
      : section_(std::move(section)), known_(known), sink_(sink) {}

  std::string path(const std::string& field) const { return join_path(section_, field); }
  /// The fields of a section inside this one.
  FieldChecks within(const std::string& field) const { return {path(field), known_, sink_}; }
  void add(const std::string& field, std::string message) const { sink_.add(path(field), std::move(message)); }

  void choice(const std::string& field, bool is_set, const std::string& value,
              const std::vector<std::string>& allowed) const;

  /// A name out of a list of another module, as KnownNames calls it; an empty name is no problem.
  void known(const std::string& field, const std::string& name, const std::string& list) const;

  /// The names of such a list; empty if they are not known here.
  std::vector<std::string> known_names(const std::string& list) const;

  template <typename Number>
  void at_least(const std::string& field, bool is_set, Number value, Number least) const {
    if (is_set && value < least) add(field, concat("must be at least ", least, " (", value, ")"));
  }
  void positive(const std::string& field, bool is_set, double value) const;
  /// 0 .. 1
  void share(const std::string& field, bool is_set, double value) const;
  /// [0, 1): the decay of a running mean.
  void decay(const std::string& field, bool is_set, double value) const;

  /// Data files. Losses are reported by domain, so where `unique_domains` two files must not share one.
  void sources(const std::string& field, const google::protobuf::RepeatedPtrField<v1::DataSource>& list,
               bool unique_domains) const;

 private:
  std::string section_;
  const KnownNames& known_;
  ProblemSink& sink_;
};

}  // namespace moe
