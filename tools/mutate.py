#!/usr/bin/env python3
"""Breaks the program on purpose, one small change at a time, and sees that a test notices: the table of mutations.

    python3 tools/mutate.py                     all of them; some 20 s each on two idle cores
    python3 tools/mutate.py NAME...             these
    python3 tools/mutate.py --list
    python3 tools/mutate.py --check             every change still fits its file, every test is still there (a test of the suite)
    python3 tools/mutate.py --self-test         the tool itself, on a table of its own (a test of the suite)

A mutation is a text of a source file, what takes its place, and the test that must then fail. Each is written, the one test
binary is built, the test is run, and the file is put back, whatever happens: SIGINT, SIGTERM and SIGHUP end what runs and put it
back too. A file that differs from the last commit is not touched: the tool ends before it begins. A mutant that passes, or does not
compile, is an error: exit 1 and one line for it at the end. One that hangs is noticed: the test is killed after --limit seconds, and
the line says so. Build first: the tests must pass without any mutation (--sane runs them so).
"""
import argparse
import os
import pathlib
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from typing import NamedTuple

ROOT = pathlib.Path(__file__).resolve().parent.parent


class Mutation(NamedTuple):
    name: str
    file: str
    old: str        # stands once in the file
    new: str
    target: str     # the test binary; other programs that the test starts follow, separated by spaces
    test: str       # filter of GoogleTest
    why: str


MUTATIONS = [
    # Targets, tokens and losses.
    Mutation("targets-are-tokens", "src/train/train_step.cc", "loader.target_tokens(first_row,", "loader.tokens(first_row,", "moe_train_tests",
             "TrainStepTest.OfChats*", "the loss is a mean over targets"),
    Mutation("balance-over-targets", "src/train/train_step.cc", "tokens = loader.tokens(first, rows),", "tokens = loader.target_tokens(first, rows),", "moe_train_tests",
             "TrainStepTest.OfChats*", "the balance loss is a mean over tokens"),
    # Routers.
    Mutation("straight-through-divides", "src/model/moe/router.cc", "return log_p - log_p.detach() + 1;",
             "return log_p.exp() / log_p.exp().detach();", "moe_model_tests", "RouterTest.StraightThrough*",
             "0 / 0 where a chosen probability underflows"),
    Mutation("straight-through-shares", "src/model/moe/router.cc", "log_p - log_p.detach() + 1", "(log_p - log_p.detach()) / static_cast<double>(ids_TK.size(1)) + 1",
             "moe_model_tests", "RouterTest.StraightThrough*", "right at top_k 1 only"),
    Mutation("gumbel-in-weights", "src/model/moe/router.cc", "const at::Tensor scores = scores_of(logits, options.score);",
             "if (draws_TE.defined() && options.noise == RouterNoise::kGumbel) logits = logits + draws_TE.to(type);\n"
             "  const at::Tensor scores = scores_of(logits, options.score);", "moe_model_tests", "RouterNoiseTest.Gumbel*", "Gumbel noise is of the choice alone"),
    Mutation("noise-by-rank", "src/train/train_step.cc", "noise.first_token = tokens_before + before;", "noise.first_token = 0;",
             "moe_train_tests", "Routers/NoisyTrainingTest.IsTheSame*", "noise is that of the token wherever it lies"),
    Mutation("held-out-tokens-by-rank", "src/eval/perplexity.cc", "before + part.loader->tokens(first, share.first);", "before;", "moe_eval_tests",
             "ForcedRoutingTest.Random*", "random experts are those of the token wherever it lies"),
    Mutation("routers-draw-alike", "src/model/moe/expert_choice.cc", "kStreamRandomRouting, router, tokens,", "kStreamRandomRouting, 0, tokens,", "moe_model_tests",
             "ExpertChoiceTest.RandomIsOf*", "every router draws its own"),
    Mutation("drops-by-rank", "src/parallel/token_capacity.cc", "*token - before_;", "*token;", "moe_parallel_tests", "TokenCapacityTest.*",
             "ranks drop the tokens that all of them agree on"),
    Mutation("drops-the-last", "src/parallel/token_capacity.cc", "std::pair(-draws[a], a) < std::pair(-draws[b], b)", "draws[0] < 2 && a < b", "moe_parallel_tests",
             "TokenCapacityTest.*", "which tokens are dropped is drawn"),
    Mutation("dropped-input-unweighed", "src/model/moe/moe_layer.cc", "x_TD.index_select(0, dropped_C) * weights_T1.index_select(0, dropped_C)", "x_TD.index_select(0, dropped_C)",
             "moe_model_tests", "TokenLimitTest.*", "what stands for an expert is weighed and scaled as one"),
    Mutation("shared-gate-unscaled", "src/model/moe/shared_gate.cc", "return at::softmax(logits_TR, 1) * options.scale;", "return at::softmax(logits_TR, 1);",
             "moe_model_tests", "MoeLayerTest.*", "the scale at which shared experts count in full"),
    Mutation("layers-stay-apart", "src/model/moe/aux_loss.cc", "(fractions_LE.mean(0) * (sums_LE.mean(0) / tokens)).sum()", "(fractions_LE * (sums_LE / tokens)).mean(0).sum()", "moe_model_tests",
             "BalanceLayersTest.*", "concatenated layers are one"),
    Mutation("load-by-noise", "src/model/moe/importance_load.cc", "estimator == LoadEstimator::kExact ?", "estimator != LoadEstimator::kExact ?", "moe_model_tests",
             "ImportanceLoadTest.*", "a chosen expert is one whose noisy logit is above the others'"),
    # Layers.
    Mutation("sequences-share-a-cache", "src/model/attention.cc", "*caches[s]", "*caches[0]", "moe_model_tests", "DecoderTest.SequencesOfACache*",
             "each sequence continues its own"),
    Mutation("masks-of-the-first-layer", "src/model/layer.cc", "if (mask.defined())", "if (mask.defined() && layer == 0)", "moe_model_tests",
             "Kinds/LayerTest.*Mask*", "every layer has a mask of its own"),
    # Attention as experts.
    Mutation("sequences-of-an-expert-are-one", "src/model/moe/sequence_segments.cc", "while (row < end && sequence[row] == sequence[first]) ++row;",
             "row = end;", "moe_model_tests", "SplitRatios/AttentionExpertsTest.Sparse*", "no sequence sees another's tokens in an expert"),
    Mutation("sequences-of-ranks-are-one", "src/parallel/all_to_all_dispatcher.cc", "sequences_T + group.rank() * kMostSequences", "sequences_T + 0 * kMostSequences",
             "moe_parallel_tests", "SequenceDispatchTest.*", "sequences of two ranks are two"),
    Mutation("always-on-experts-are-scaled", "src/model/attention_experts.cc", "at::ones(first.sizes(), slots.weights_TS.options())",
             "at::ones(first.sizes(), slots.weights_TS.options()) * options.output_scale", "moe_model_tests", "SplitRatios/AttentionExpertsTest.Sparse*",
             "what every token uses has weight 1"),
    Mutation("experts-share-a-cache", "src/model/attention_experts.cc", "&cache.experts[expert]", "&cache.experts[0]", "moe_model_tests", "AttentionDecoderTest.Cached*",
             "each expert has the keys of its own tokens"),
    Mutation("attention-balanced-as-ffns", "src/train/recipes/language_model.cc", "options.attention_balance_loss = spec_.attention_balance_loss();",
             "options.attention_balance_loss = options.balance_loss;", "moe_train_tests", "AttentionTrainingTest.TellsLoad*", "attention's routers have a coefficient of their own"),
    # Optimizer and gradients.
    Mutation("norms-decay", "src/train/optimizer.cc", "decays ? options_.weight_decay * group.weight_decay_factor : 0.0", "options_.weight_decay * group.weight_decay_factor", "moe_peer_logits_tests",
             "TrainStepPeerTest.*", "the whole step against PyTorch"),
    Mutation("clipping-forgotten", "src/train/optimizer.cc", "if (gradient_scale != 1)", "if (gradient_scale > 1)", "moe_peer_logits_tests",
             "TrainStepPeerTest.*", "AdamW hides the scale of gradients, all but in its moments"),
    Mutation("missing-gradients-are-zeros", "src/parallel/gradient_sync.cc", "if (made[i] > 0 && !gradient.defined())", "if (made[i] >= 0 && !gradient.defined())",
             "moe_train_tests", "TrainStepTest.FrozenWeights*", "a frozen weight decays"),
    Mutation("missing-gradients-stay-missing", "src/parallel/gradient_sync.cc", "if (made[i] > 0 && !gradient.defined())", "if (made[i] > 1 && !gradient.defined())",
             "moe_parallel_tests", "GradientSyncTest.*", "ranks disagree on which parameters move"),
    Mutation("frozen-weights-decay", "src/train/optimizer.cc", "!parameters_[i].value.grad().defined())\n      continue;",
             "false) continue;\n    if (!parameters_[i].value.grad().defined()) parameters_[i].value.mutable_grad() = at::zeros_like(parameters_[i].value);",
             "moe_train_tests", "AdamWTest.*", "a parameter without gradient is left alone"),
    Mutation("norm-copies", "src/parallel/gradient_sync.cc", "const at::Tensor dense = gradient.contiguous();", "const at::Tensor dense = gradient.to(at::kDouble);",
             "moe_parallel_tests", "GradientSyncTest.*", "the norm holds no copy of a gradient"),
    Mutation("norm-by-rank", "src/parallel/gradient_sync.cc", "return std::sqrt(sum);", "return std::sqrt(sum * (1 + 1e-15 * mesh.expert_parallel()));",
             "moe_parallel_tests", "GradientSyncTest.*", "the norm has the same bits in every layout"),
    Mutation("replicas-average", "src/parallel/gradient_sync.cc", "gradient.copy_(bucket.narrow(0, first, gradient.numel()).view_as(gradient));",
             "gradient.copy_(bucket.narrow(0, first, gradient.numel()).view_as(gradient) / (op[4] == 'e' ? group.size() : 1));", "moe_layouts_tests",
             "*/LayoutsTest.*", "AdamW hides the scale of experts' gradients from the losses, not from the moments"),
    # Conversion.
    Mutation("calibration-may-be-nan", "src/convert/layer_fit.cc", "if (bad == 0) continue;", "if (bad >= 0) continue;", "moe_convert_tests",
             "ConversionTest.CalibrationThatIsNotFinite*", "what is not finite is refused with the layer and the numbers"),
    Mutation("fit-swallows-nan", "src/convert/output_scale.h", "return s_s == 0 ? 1 : y_s / s_s;", "return s_s > 0 ? y_s / s_s : 1;", "moe_convert_tests",
             "*OutputFit*", "a fit of NaN is NaN, not 1"),
    Mutation("gap-upside-down", "src/convert/output_scale.h", "stream * dense_output / (output * dense_stream)", "output * dense_stream / (stream * dense_output)",
             "moe_convert_tests", "StreamGapTest.*:AttentionMeasuresTest.GapScales*", "experts are scaled to the dense layer's gap, not away from it"),
    Mutation("directions-along-the-mean", "src/convert/principal_directions.cc", "covariance(rows, across_mean)", "covariance(rows, false)", "moe_convert_tests",
             "PcaTest.CalibratedLogitsAreAboutZero*", "the common direction of all tokens chooses no expert"),
    Mutation("directions-of-any-sign", "src/convert/principal_directions.cc", "at::where(greatest < 0, -rows, rows)", "rows", "moe_convert_tests",
             "PrincipalDirectionsTest.AreSingularVectors*", "what LAPACK leaves open is decided"),
    Mutation("eigenvectors-by-threads", "src/convert/principal_directions.cc", "at::set_num_threads(1); }", "}", "moe_convert_tests",
             "PrincipalDirectionsTest.Neither*", "a router has the same bits at any number of threads"),
    Mutation("target-of-the-likeliest-token", "src/convert/top_probability.cc", "mean += 1 / sum;", "mean = std::fmax(mean, static_cast<double>(gaps_TE.size(0)) / sum);", "moe_convert_tests",
             "RouterRowsTest.TargetProbability*", "the probability is a mean over tokens"),
    Mutation("calibration-repeats", "src/convert/calibration_text.cc", "packing.one_pass = true;", "packing.one_pass = false;", "moe_convert_tests",
             "ConversionTest.TooLittle*", "no text is read twice"),
    Mutation("calibration-in-plain-markers", "src/convert/calibration_text.cc", "packing.chat_template = reading.chat_template;", "", "moe_worker_tests moe-worker",
             "ChatCommandsTest.CalibrationChats*", "calibration chats are in the model's template"),
    Mutation("fit-overlooks-the-shared-gate", "src/convert/layer_fit.cc", "return shared_output(shared, gate_RD, options, x_TD);",
             "return feed_forward(shared, x_TD);", "moe_convert_tests", "SharedGateConversionTest.WhatIsFitted*",
             "the output scale is fitted to what the gated shared experts leave"),
    Mutation("calibration-holds-a-layer-more", "src/convert/layer_fit.cc", "dense.down_bias = weights.output_bias = at::Tensor();",
             "dense.down_bias = weights.output_bias = at::Tensor();\n  dense.gate = dense.gate.clone();\n  dense.up = dense.up.clone();\n  dense.down = dense.down.clone();",
             "moe_convert_memory_tests", "MemoryTest.Calibration*", "a layer in float and its experts, not three"),
    Mutation("alignment-scales-the-bias", "src/convert/channel_alignment.cc", "bias_D.defined() ? converted.mean_D - bias_D.to(at::kDouble) : converted.mean_D",
             "converted.mean_D", "moe_convert_tests", "ChannelAlignmentTest.*", "a bias that is there is not scaled"),
    Mutation("reconstruction-takes-what-is-damaged", "src/convert/reconstruction.cc", "value(kKeptDigest) == digest_of(tensors, measured)", "!value(kKeptDigest).empty()",
             "moe_train_tests", "*ReconstructionTest.UsesOnly*", "a damaged layer is trained again"),
    # Ranks that read other files.
    Mutation("ranks-convert-other-models", "src/convert/converter.cc", 'require_same_files(world, "before the conversion", digests);', "",
             "moe_worker_tests moe-worker", "UnlikeRanksTest.TheModelIsNamedBeforeItIsConverted", "ranks convert one model"),
    Mutation("ranks-calibrate-on-other-text", "src/convert/calibration_text.cc", 'require_same_files(world, "calibration text", facts);', "", "moe_worker_tests moe-worker",
             "UnlikeRanksTest.Calibration*", "ranks calibrate on one text"),
    Mutation("ranks-evaluate-other-models", "src/runtime/loaded_model.cc", 'require_same_files(mesh.world(), "load " + path.string(), facts);', "", "moe_worker_tests moe-worker",
             "UnlikeRanksTest.TheModelIsNamedBeforeItIsEvaluated", "ranks evaluate one model"),
    Mutation("ranks-evaluate-other-data", "src/eval/held_out.cc", "require_same_files(world, op, files);", "",
             "moe_worker_tests moe-worker", "UnlikeRanksTest.DataOfEvaluation*", "ranks evaluate the same text"),
    # What is told before the first stage.
    Mutation("others-are-not-held", "src/worker/model_check.cc", "if (const OpenedModel* const opened = model(other); opened != nullptr)",
             "if (const OpenedModel* const opened = model(other); false && opened != nullptr)", "moe_train_tests", "ModelCheckTest.Merged*",
             "the models of a merge have one shape"),
    Mutation("rows-of-the-input-alone", "src/worker/model_check.cc", "while (outputs_.contains(reference)) reference = outputs_.at(reference);", "",
             "moe_train_tests", "ModelCheckTest.Rows*", "a later stage's rows are held against the model at the beginning"),
    Mutation("first-problem-alone", "src/convert/request_check.cc", "for (const RequestCheck& check : checks_of(request.spec)) try_it(check);",
             "for (const RequestCheck& check : checks_of(request.spec)) {\n    if (found.empty()) try_it(check);\n  }", "moe_convert_tests",
             "BadRequestTest.AllProblems*", "all problems of a conversion at once"),
    # Products.
    Mutation("a-primitive-for-every-row-count", "src/kernels/onednn_matmul.cc", "return prepared_count(rows) == rows ? rows : prepared_count((rows + 1) / 2);",
             "return rows;", "moe_kernels_tests", "RowBitsTest.Prepared*", "compiled products are bounded"),
    Mutation("a-primitive-for-every-gradient", "src/kernels/matmul_cpu.cc", ".k = is_open ? kOpen : k,", ".k = k,", "moe_kernels_tests",
             "RowBitsTest.Prepared*", "compiled products are bounded"),
    Mutation("padding-is-not-zero", "src/kernels/matmul_cpu.cc", "std::memset(copy + static_cast<size_t>(runs.outer * runs.inner) * element, 0,",
             "std::memset(copy + static_cast<size_t>(runs.outer * runs.inner) * element, 63,", "moe_kernels_tests", "RowBitsTest.RowsOfZeros*:*LinearTest*BFloat16*",
             "rows of zeros add nothing"),
    Mutation("routing-in-bf16", "src/model/moe/router.cc", "x = x_TD.to(type), first_TE = ops::linear(x, weights.weight_ED.to(type));", "x = x_TD, first_TE = ops::linear(x, weights.weight_ED).to(type);",
             "moe_model_tests", "BFloat16Test.*", "router logits are never rounded to bf16"),
    Mutation("mixed-devices", "src/model/op_queue.cc", "if (each.tensor.device() != first->tensor.device()) {", "if (false) {", "moe_model_tests",
             "OpsTest.TensorsOfDifferentDevices*", "an operation refuses tensors of different devices"),
    Mutation("another-device", "src/model/op_queue.cc", "current != device) {", "false) {", "moe_model_tests", "OpsTest.TheQueueOfATensor*",
             "a thread runs operations on its current device alone"),
    # CUDA, on the simulation.
    Mutation("barrier-dropped", "src/kernels/cuda_reduce.h", "  __syncthreads();\n  S total = of_warp[0];", "  S total = of_warp[0];", "moe_kernels_on_cuda_host_tests",
             "Cuda/PermuteTest.GradientsMatchTheir*", "a warp's part is read when it is written"),
    Mutation("second-barrier-dropped", "src/kernels/cuda_reduce.h", "  __syncthreads();  // nobody writes the next reduction's parts before all have read these\n", "",
             "moe_kernels_on_cuda_host_tests", "Cuda/NormsTest.LayerNorm*", "a warp's part is written when all have read the last"),
    Mutation("half-a-reduction", "src/kernels/cuda_reduce.h", "offset = kWarp / 2; offset > 0", "offset = kWarp / 4; offset > 0", "moe_kernels_on_cuda_host_tests",
             "Cuda/PermuteTest.GradientsMatchTheir*", "a sum is of all lanes"),
    Mutation("column-overrun", "src/kernels/permute_cuda.cu", "c < D; c += kThreads * V) {\n    Sum sum[V] = {};", "c <= D; c += kThreads * V) {\n    Sum sum[V] = {};",
             "moe_kernels_on_cuda_host_tests", "Cuda/PermuteTest.TokensAreWeighted*", "a row's sum ends with the row"),
    Mutation("wider-than-aligned", "src/kernels/permute_cuda.cu", "  if (fits(16)) {\n    launch_permute<uint4>", "  if (fits(4)) {\n    launch_permute<uint4>",
             "moe_kernels_on_cuda_host_tests", "Cuda/PermuteTest.RowsAreCopies*", "a wide load needs an address that it divides"),
    Mutation("another-stream", "src/kernels/permute_cuda.cu", "permute_kernel<Unit><<<blocks, kThreads, 0, stream>>>(",
             "permute_kernel<Unit><<<blocks, kThreads, 0, stream == nullptr ? stream : nullptr>>>(", "moe_kernels_on_cuda_host_tests", "Cuda/PermuteTest.RowsAreCopies*",
             "an op is enqueued on the stream it was given"),
    Mutation("host-reads-the-device", "src/kernels/permute_cuda.cu", "  if (fits(16)) {", "  if (fits(16) || args.row_tokens[0] < 0) {", "moe_kernels_on_cuda_host_tests",
             "Cuda/PermuteTest.RowsAreCopies*", "a launcher knows addresses, not what lies there"),
    Mutation("read-too-early", "tests/kernels/device_memory_cuda.cc", "    require(cudaStreamSynchronize(test_stream()));\n", "", "moe_kernels_on_cuda_host_tests",
             "Cuda/PermuteTest.RowsAreCopies*", "a copy is there when its stream was waited for"),
    # GPUs, on simulated ones.
    Mutation("collective-before-its-input", "src/comm/nccl_group.cc", "  ready.block(stream);\n", "", "moe_cuda_run_tests moe_worker_on_host",
             "DeviceRunTest.APipeline*", "NCCL's stream waits for what computes the input"),
    Mutation("result-before-its-collective", "src/comm/nccl_group.cc", "    done->block(cuda().getStream(device_));\n", "",
             "moe_cuda_run_tests moe_worker_on_host", "DeviceRunTest.APipeline*", "who needs a result waits for NCCL's stream"),
    Mutation("nccl-is-still-taking", "src/comm/nccl_group.cc", "  settle(operation);\n  const auto done", "  const auto done",
             "moe_cuda_run_tests moe_worker_on_host", "DeviceRunTest.APipeline*", "the stream holds a collective when NCCL says so"),
    Mutation("pageable-batches", "src/model/device.cc", "tensor.pin_memory().to(device, /*non_blocking=*/true)", "tensor.to(device)", "moe_cuda_training_tests",
             "DeviceTrainingTest.AStepOfOneRank*", "a copy from pageable memory holds the host"),
    Mutation("too-small-a-gpu-is-a-bug", "src/comm/device_errors.cc", "catch (const c10::OutOfMemoryError& error) {\n    throw HardwareError(",
             "catch (const c10::OutOfMemoryError& error) {\n    throw Internal(", "moe_cuda_run_tests moe_worker_on_host", "DeviceRunTest.AGpuThatIsTooSmall*",
             "a job that one GPU cannot hold is tried elsewhere"),
    Mutation("gpus-by-number", "src/worker/devices.cc", "if (is_new) continue;", "if (is_new && rank == 0) continue;",
             "moe_cuda_run_tests moe_worker_on_host", "DeviceRunTest.RanksThatSeeOneGpuEach*", "launchers that show each rank one GPU are served"),
    # Training in bfloat16.
    Mutation("weights-of-before", "src/train/recipes/language_model.cc", "  }\n  if (working_) working_->round();\n}", "  }\n}", "moe_train_tests",
             "Bfloat16TrainingTest.LossesAreNear*", "the decoder computes with what the optimizer made of the masters"),
    Mutation("weights-of-the-start", "src/train/recipes/language_model.cc", "  if (working_) working_->round();\n  agree(", "  agree(", "moe_train_tests",
             "Bfloat16TrainingTest.CheckpointsHold*", "the decoder goes on with the masters of the checkpoint"),
    Mutation("micro-batches-in-bfloat16", "src/train/working_weights.cc", "sum.add_(gradient);", "sum.copy_((sum + gradient).to(at::kBFloat16));",
             "moe_train_tests", "WorkingWeightsTest.Sums*", "gradients of micro-batches are summed in float"),
    Mutation("routers-in-bfloat16", "src/model/parameters.cc", "return options_.dtype(sum_type(c10::typeMetaToScalarType(options_.dtype())));", "return options_;",
             "moe_train_tests", "Bfloat16TrainingTest.WhatRoutes*", "routers are not rounded to 8 bits"),
    Mutation("selection-biases-in-bfloat16", "src/model/parameters.cc", "if (!is_of_router(id.part) && id.part != TensorPart::kSelectionBias)", "if (!is_of_router(id.part))",
             "moe_train_tests", "Bfloat16TrainingTest.WhatRoutes*", "selection biases are not rounded to 8 bits"),
    Mutation("embedding-sums-in-bfloat16", "src/model/ops_permute.cc", "dy.to(sum_type(dy.scalar_type())), context", "dy, context", "moe_model_tests",
             "BFloat16Test.ARowOfTheEmbedding*", "the gradient of a frequent token is not lost"),
    # Plans.
    Mutation("router-without-gradient-untold", "src/pipeline/kinds/convert.cc", "top_k != 1 || router.topk_norm()", "top_k >= 1 || router.topk_norm()", "moe_pipeline_tests",
             "WarningsTest.*", "renorm at top_k 1 teaches the router nothing"),
    Mutation("idle-ranks-untold", "src/common/idle_ranks.h", "ranks <= micro_batch_rows", "ranks <= 8 * micro_batch_rows", "moe_train_tests",
             "TrainerTest.RanksWithoutRows*", "ranks that get no rows are told"),
]


def problems_of(mutation):
    """Why the table is out of date, or nothing."""
    text = (ROOT / mutation.file).read_text()
    if text.count(mutation.old) != 1:
        yield f"{mutation.name}: {mutation.file} has {text.count(mutation.old)} times: {mutation.old.splitlines()[0]}"
    tests = "\n".join(path.read_text() for path in (ROOT / "tests").rglob("*_test.cc"))
    for pattern in mutation.test.split(":"):
        words = re.findall(r"\w{5,}", pattern)
        if not words or not all(re.search(word, tests) for word in words):
            yield f"{mutation.name}: no test looks like {pattern}"


def changed_files(mutations):
    """Which files of these mutations differ from the last commit; nothing where there is no repository."""
    files = sorted({m.file for m in mutations})
    status = subprocess.run(["git", "status", "--porcelain", "--", *files], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    return [line[3:] for line in status.stdout.splitlines()] if status.returncode == 0 else []


def end_by_signal(number, frame):
    """As an exception, which passes the places that put things back; another signal does not disturb them."""
    for other in SIGNALS:
        signal.signal(other, signal.SIG_IGN)
    sys.exit(128 + number)


SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Ran(NamedTuple):
    code: int | None   # None: killed at the limit
    said: str


def run(command, limit):
    """In a process group of its own, which ends with it, with the limit, or with this program."""
    with subprocess.Popen(command, cwd=ROOT, shell=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
                          start_new_session=True) as process:
        try:
            said, _ = process.communicate(timeout=limit)
            return Ran(process.returncode, said)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            said, _ = process.communicate()
            return Ran(None, said)
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            raise


def tests_pass(mutation, options):
    """(whether the test passes, what was said; None for said where it took too long), or (None, ...) if it was not built."""
    built = run(options.build.format(target=mutation.target), options.limit)
    if built.code != 0:
        return None, built.said + (f"\nthe build took over {options.limit:g} s" if built.code is None else "")
    binary = next((ROOT / "build/release/bin").rglob(mutation.target.split()[0])).relative_to(ROOT)   # some lie beside a library of theirs
    ran = run(options.run.format(command=shlex.quote(f"{binary} --gtest_brief=1 --gtest_fail_fast --gtest_filter={shlex.quote(mutation.test)}")), options.limit)
    if ran.code is None:
        return False, None
    if "Running 0 tests" in ran.said or "0 tests from 0 test suites" in ran.said:
        return None, "no test matches " + mutation.test
    return ran.code == 0, ran.said


ORIGINALS = {}   # bytes of the file that is mutated now


def put_back():
    for path, original in list(ORIGINALS.items()):
        path.write_bytes(original)
        del ORIGINALS[path]


def try_mutation(mutation, options):
    """(why this mutation shows a hole, or nothing; what else is to say)."""
    path = ROOT / mutation.file
    original = path.read_bytes()
    try:
        if not options.sane:
            ORIGINALS[path] = original
            path.write_text(original.decode().replace(mutation.old, mutation.new, 1))
        passes, said = tests_pass(mutation, options)
    finally:
        put_back()
    is_too_long = said is None
    tail = f"it took over {options.limit:g} s" if is_too_long else "\n".join(said.splitlines()[-15:])
    if passes is None:
        return "was not built or not run:\n" + tail, ""
    if options.sane:
        return "" if passes else "the test fails without the mutation:\n" + tail, ""
    return "SURVIVED: " + mutation.test + " passes" if passes else "", f" (by a time-out: the test was killed after {options.limit:g} s)" if is_too_long else ""


def self_test():
    """A copy of this file with a table of its own, in a small repository whose "test binary" looks at the mutated file."""
    program = pathlib.Path(__file__).read_text()
    table = program[program.index("\nMUTATIONS = ["):program.index("\n]\n") + 3]
    fakes = [Mutation(name, "code.cc", "good", name, "fake_tests", "FakeTest.*", "why " + name) for name in ("bad", "hangs", "unseen", "broken")]
    with tempfile.TemporaryDirectory() as folder:
        root = pathlib.Path(folder)
        files = {"tools/mutate.py": program.replace(table, "\nMUTATIONS = [" + ",\n".join(map(repr, fakes)) + "\n]\n"),
                 "code.cc": "good\n",
                 "tests/fake_test.cc": "TEST(FakeTest, Name) {}\n",
                 "build/release/bin/fake_tests": "#!/bin/sh\ngrep -q bad code.cc && exit 1\nif grep -q hangs code.cc; then echo $$ > pid; sleep 600; fi\nexit 0\n"}
        for name, text in files.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(text)
            (root / name).chmod(0o755)
        git = ["git", "-c", "user.name=x", "-c", "user.email=x@localhost", "-c", "commit.gpgsign=false"]
        for words in (["init", "-q"], ["add", "code.cc"], ["commit", "-q", "-m", "x"]):
            subprocess.run(git + words, cwd=root, check=True)
        command = [sys.executable, str(root / "tools/mutate.py"), "--build", "! grep -q broken code.cc"]

        def is_clean():
            return (root / "code.cc").read_text() == "good\n"

        def has_ended(pid):
            for _ in range(500):   # of a killed group; its new parent may take a moment to see it
                try:
                    if pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z":
                        return True
                except OSError:
                    return True
                time.sleep(0.01)
            return False

        whole = subprocess.run(command + ["--limit", "1"], stdout=subprocess.PIPE, text=True)
        assert whole.returncode == 1, whole
        for line in ("ok   bad: why bad\n", "ok   hangs: why hangs (by a time-out: the test was killed after 1 s)", "FAIL unseen: SURVIVED",
                     "FAIL broken: was not built", "2 of 4 mutations were noticed"):
            assert line in whole.stdout, (line, whole.stdout)
        assert is_clean() and has_ended((root / "pid").read_text().strip())
        for number in SIGNALS:
            (root / "pid").unlink()
            tool = subprocess.Popen(command + ["hangs"])
            while not (root / "pid").exists() or not (root / "pid").read_text():
                assert tool.poll() is None
                time.sleep(0.01)
            assert not is_clean()
            tool.send_signal(number)
            assert tool.wait() == 128 + number, tool.returncode
            assert is_clean() and has_ended((root / "pid").read_text().strip()), number
        (root / "code.cc").write_text("good, and work that nobody committed\n")
        refused = subprocess.run(command + ["bad"], stderr=subprocess.PIPE, text=True)
        assert refused.returncode == 1 and "code.cc" in refused.stderr and "commit" in refused.stderr, refused
        assert "nobody committed" in (root / "code.cc").read_text()
    print("mutate: a hang, a survivor, a build that fails, three signals and a changed file are what they should be")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="mutations to try; all by default")
    parser.add_argument("--list", action="store_true", help="print the table")
    parser.add_argument("--check", action="store_true", help="only see that the table fits the sources")
    parser.add_argument("--limit", type=float, default=900, metavar="SECONDS", help="what a build and what a test may take at most (%(default)s)")
    parser.add_argument("--self-test", action="store_true", help="try this tool on a table of its own")
    parser.add_argument("--sane", action="store_true", help="run the tests without the mutations: all must pass")
    parser.add_argument("--build", default="cmake --build --preset release --target {target}", help="how {target} is built (%(default)s)")
    parser.add_argument("--run", default="bash -c {command}", help="how {command} is run (%(default)s)")
    options = parser.parse_args()
    if options.self_test:
        self_test()
        return
    unknown = set(options.names) - {m.name for m in MUTATIONS}
    if unknown:
        sys.exit(f"mutate: no mutation {', '.join(sorted(unknown))}; --list shows them")
    chosen = [m for m in MUTATIONS if not options.names or m.name in options.names]
    if options.list:
        for m in chosen:
            print(f"{m.name:32} {m.file:34} {m.target.split()[0]} {m.test}\n{'':32} {m.why}")
        return
    stale = [problem for m in chosen for problem in problems_of(m)]
    if stale:
        sys.exit("\n".join(stale))
    if options.check:
        print(f"{len(chosen)} mutations fit")
        return
    if not options.sane:
        changed = changed_files(chosen)
        if changed:
            sys.exit(f"mutate: not committed: {', '.join(changed)}; commit or restore first (git diff shows what is changed), so that nothing is lost and no "
                     "mutation that a killed run left is taken for the program")
    for number in SIGNALS:
        signal.signal(number, end_by_signal)
    holes = []
    try:
        for m in chosen:
            hole, more = try_mutation(m, options)
            print(f"{'ok  ' if not hole else 'FAIL'} {m.name}: {hole or m.why + more}", flush=True)
            if hole:
                holes.append(m.name)
    finally:
        put_back()   # a signal may have come while a file was being put back; none disturbs this
    print(f"{len(chosen) - len(holes)} of {len(chosen)} mutations were noticed" if not options.sane else f"{len(chosen) - len(holes)} of {len(chosen)} pass unmutated")
    if holes:
        sys.exit(1)


if __name__ == "__main__":
    main()
