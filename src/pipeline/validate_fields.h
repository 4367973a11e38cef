#pragma once

#include <string>

#include "moe/v1/job.pb.h"
#include "pipeline/spec.h"

/// Checks of one stage's own fields, without a look at other stages. `path` is the section's, for example
/// "stages.stage1.train".
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

void check_gang(const v1::GangSpec& gang, const std::string& path, ProblemSink& sink);
void check_convert(const v1::ConvertSpec& convert, const std::string& path, const KnownNames& known, ProblemSink& sink);
void check_train(const v1::TrainSpec& train, const std::string& path, const KnownNames& known, ProblemSink& sink);
void check_evaluate(const v1::EvaluateSpec& evaluate, const std::string& path, const KnownNames& known,
                    ProblemSink& sink);
void check_export(const v1::ExportSpec& spec, const std::string& path, const KnownNames& known, ProblemSink& sink);

/// `value` must be one of `allowed`; its absence is no problem.
void check_choice(const std::string& value, const std::vector<std::string>& allowed, const std::string& path,
                  ProblemSink& sink);

}  // namespace moe
