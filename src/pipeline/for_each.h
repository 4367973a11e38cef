#pragma once

#include "pipeline/problem.h"
#include "pipeline/yaml_tree.h"

namespace moe {

/// Writes out the items `for_each` of a file's stages: every stage of the group once for every variant (and every
/// seed), so that nothing after this knows that they were written once.
///
///   - for_each:
///       variants:
///         - {name: random, convert: {ffn: {method: independent_random, experts: 8, top_k: 4}}}
///         - {name: residual, convert: {ffn: {method: residual, experts: 7, shared_experts: 1, top_k: 3}}}
///       seeds: [1, 2, 3]
///       stages:
///         - {name: convert, convert: {input: dense, calibration: {data: [{path: general.jsonl}]}}}
///         - {name: evaluate, evaluate: {input: convert.model, data: [{path: valid.jsonl}]}}
///
/// makes random-s1-convert, random-s1-evaluate, random-s2-convert, ... What a variant says under a stage's name is laid
/// over that stage's job, key by key; with seeds, each stage has the seed, and none of its own. Names of the group's
/// own stages
/// ("convert.model", a gate's "evaluate.loss") mean those of the same variant. Values keep the line they were written
/// at. What cannot be written out is left out, with a problem.
void expand_for_each(YamlNode& document, Problems& problems);

}  // namespace moe
