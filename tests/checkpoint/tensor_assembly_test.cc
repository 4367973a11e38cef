// Every field of a piece, against the sum that it stands for, worked out with LibTorch's own indexing.
#include "checkpoint/tensor_assembly.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <string>

#include "common/error.h"
#include "testing/random_tensor.h"

namespace moe {
namespace {

using ::testing::HasSubstr;
using ::testing::ThrowsMessage;

class TensorAssemblyTest : public ::testing::Test {
 protected:
  TensorAssemblyTest() {
    sources_["a"] = testing::random_normal({6, 5}, 1).to(at::kFloat);
    sources_["b"] = testing::random_normal({6, 5}, 2).to(at::kFloat);
    sources_["v"] = testing::random_normal({6}, 3).to(at::kFloat);
    sources_["half"] = testing::random_normal({6, 5}, 4).to(at::kBFloat16);
  }
  TensorAssembly assembly(TensorAssembly::Rounding rounding = TensorAssembly::Rounding::kNotMeasured) {
    return {"test",
            {[this](const TensorPiece& piece) {
               const std::string name = piece.model == 0 ? piece.source : piece.source + "'";
               return sources_.at(name);
             },
             [this](const TensorPiece&) { ++released_; }},
            rounding};
  }
  at::Tensor make(const PiecedTensor& tensor, at::ScalarType dtype = at::kFloat) {
    return assembly().assemble(tensor, dtype);
  }

  std::map<std::string, at::Tensor> sources_;
  int released_ = 0;
};

TEST_F(TensorAssemblyTest, OneWholeSourceIsNotCopied) {
  EXPECT_TRUE(make({"t", {6, 5}, {{"a"}}}).is_same(sources_["a"]));
  EXPECT_EQ(released_, 0);
  EXPECT_EQ(make({"t", {6, 5}, {{"a"}}}, at::kDouble).scalar_type(), at::kDouble);
  EXPECT_EQ(released_, 1);
}

TEST_F(TensorAssemblyTest, PiecesLieAtTheirPlacesAndTheRestIsFilled) {
  at::Tensor expected = at::full({2, 9, 6}, 7.0F);
  expected[1].slice(0, 2, 8).slice(1, 0, 5) = sources_["a"] * -4;
  EXPECT_TRUE(at::equal(make({"t", {2, 9, 6}, {{"a", 1, 2, -4}}, 7}), expected));
  const at::Tensor vector = make({"t", {8}, {{"v", -1, 2, 0.5}}, 1});
  EXPECT_TRUE(at::equal(vector.slice(0, 2), sources_["v"] * 0.5F));
  EXPECT_TRUE(at::equal(vector.slice(0, 0, 2), at::ones({2})));
}

TEST_F(TensorAssemblyTest, TakesAndPlacesRowsAndColumnsByNumber) {
  const IndexList rows = index_list({5, 0, 0, 3}), columns = index_list({4, 1});
  const at::Tensor row_ids = at::tensor({5, 0, 0, 3}, at::kLong), column_ids = at::tensor({4, 1}, at::kLong);
  for (const at::ScalarType type : {at::kFloat, at::kBFloat16}) {
    EXPECT_TRUE(at::equal(make({"t", {4, 5}, {{.source = "a", .taken = rows}}}, type),
                          sources_["a"].index_select(0, row_ids).to(type)));
    EXPECT_TRUE(at::equal(make({"t", {6, 2}, {{.source = "a", .dim = 1, .taken = columns}}}, type),
                          sources_["a"].index_select(1, column_ids).to(type)));
    at::Tensor placed = at::zeros({6, 9}, type);
    placed.index_copy_(1, at::tensor({8, 0, 2, 3, 4}, at::kLong), (sources_["b"] * 2).to(type));
    EXPECT_TRUE(at::equal(
        make({"t", {6, 9}, {{.source = "b", .factor = 2, .dim = 1, .placed = index_list({8, 0, 2, 3, 4})}}}, type),
        placed));
  }
  // Two runs of columns, one after the other.
  const at::Tensor runs = make(
      {"t", {6, 7}, {{.source = "a", .dim = 1, .taken = columns}, {.source = "b", .start = 2, .factor = 3, .dim = 1}}});
  EXPECT_TRUE(at::equal(runs, at::cat({sources_["a"].index_select(1, column_ids), sources_["b"] * 3}, 1)));
}

/// The average of three models is rounded once, from float64.
TEST_F(TensorAssemblyTest, PiecesThatAddAreSummedInFloat64) {
  sources_["a'"] = testing::random_normal({6, 5}, 9).to(at::kFloat) * 1e6;
  const double third = 1.0 / 3;
  const at::Tensor mean = make({"t",
                                {6, 5},
                                {{.source = "a", .factor = third},
                                 {.source = "a", .factor = third, .model = 1, .adds = true},
                                 {.source = "b", .factor = third, .adds = true}}});
  const at::Tensor exact = sources_["a"].to(at::kDouble) * third + sources_["a'"].to(at::kDouble) * third +
                           sources_["b"].to(at::kDouble) * third;
  EXPECT_TRUE(at::equal(mean, exact.to(at::kFloat)));
  // By number: rows 1 and 4 of `b` on top of rows 0 and 0.
  const at::Tensor twice = make(
      {"t", {6, 5}, {{"a"}, {.source = "b", .taken = index_list({1, 4}), .placed = index_list({0, 0}), .adds = true}}},
      at::kDouble);
  at::Tensor expected = sources_["a"].to(at::kDouble);
  expected[0] += sources_["b"][1].to(at::kDouble) + sources_["b"][4].to(at::kDouble);
  EXPECT_TRUE(at::allclose(twice, expected, 1e-15, 0));
}

/// Together is one by one, also where the fast way does not apply.
TEST_F(TensorAssemblyTest, TogetherIsOneByOne) {
  const auto columns = [](const std::string& source, std::vector<int32_t> taken) {
    const auto count = static_cast<int64_t>(taken.size());
    return PiecedTensor{"t", {6, count}, {{.source = source, .dim = 1, .taken = index_list(std::move(taken))}}};
  };
  for (const std::string second : {"a", "b"}) {
    for (const at::ScalarType type : {at::kFloat, at::kDouble}) {
      const std::vector<PiecedTensor> tensors{columns("a", {4, 0}), columns(second, {1, 2, 3}), columns("a", {})};
      std::vector<at::Tensor> outs;
      for (const PiecedTensor& tensor : tensors) outs.push_back(at::empty(tensor.shape, type));
      TensorAssembly together = assembly();
      together.assemble_together(tensors, outs);
      for (size_t i = 0; i < tensors.size(); ++i)
        EXPECT_TRUE(at::equal(outs[i], make(tensors[i], type))) << second << i;
    }
  }
}

/// What reading a stock layout does: source -> target -> source.
TEST_F(TensorAssemblyTest, APieceIsFoundAgain) {
  const std::vector<TensorPiece> pieces{{"a", 1, 3},
                                        {"a", 0, 0, 4},
                                        {.source = "a", .index = 1, .start = 2, .factor = 0.5, .dim = 1},
                                        {.source = "a", .index = 0, .placed = index_list({9, 1, 2, 3, 7, 0})}};
  for (const TensorPiece& piece : pieces) {
    const at::Tensor target = make({"t", {2, 12, 8}, {piece}});
    EXPECT_TRUE(at::equal(find_piece(target, piece, sources_["a"].sizes()), sources_["a"]));
  }
  EXPECT_THROW(find_piece(sources_["a"], {.source = "a", .taken = index_list({1})}, {6, 5}), Internal);
}

TEST_F(TensorAssemblyTest, RoundingIsMeasuredWhereAsked) {
  TensorAssembly measured = assembly(TensorAssembly::Rounding::kMeasured);
  measured.assemble({"t", {6, 5}, {{"a", -1, 0, 4}}}, at::kFloat);
  EXPECT_EQ(measured.max_relative_rounding(), 0);
  const at::Tensor written = measured.assemble({"t", {6, 5}, {{"a"}}}, at::kBFloat16);
  const at::Tensor exact = sources_["a"].to(at::kDouble);
  EXPECT_DOUBLE_EQ(measured.max_relative_rounding(),
                   ((written.to(at::kDouble) - exact) / exact).abs().max().item<double>());
  EXPECT_THAT(
      [&] {
        make({"t", {6, 5}, {{"a", -1, 0, 1e39}}});
      },
      ThrowsMessage<InvalidArgument>(HasSubstr("test: a value of up to")));
}

}  // namespace
}  // namespace moe
