// Collectives of GPU tensors by NCCL give what the host's collectives give, to the last bit, and no fault leaves a rank
// waiting. Under mpirun, each rank with a simulated GPU of its own.
#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <cmath>
#include <functional>
#include <thread>
#include <vector>

#include "comm/nccl_communicator.h"
#include "common/error.h"
#include "model/device.h"
#include "testing/mpi_world.h"

namespace moe {
namespace {

using std::chrono::milliseconds;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::ThrowsMessage;

class NcclCommunicatorTest : public ::testing::Test {
 protected:
  void SetUp() override {
    static const bool is_open = [] {
      open_cuda("", 0);
      return true;
    }();
    static_cast<void>(is_open);
  }

  /// What `collective` makes of a tensor of this rank's: on GPUs by NCCL, and on the host.
  static void expect_same(const std::function<at::Tensor(Communicator&, const at::Tensor&)>& collective,
                          const at::Tensor& mine) {
    const auto nccl = make_nccl(world());
    const at::Tensor found = collective(*nccl, on_device(mine, device_of("cuda"))),
                     expected = collective(world(), mine.clone());
    ASSERT_TRUE(found.is_cuda());
    EXPECT_TRUE(found.cpu().equal(expected));
  }

  static Communicator& world() { return testing::mpi_world(); }
  static int64_t rank() { return world().rank(); }
  static int64_t size() { return world().size(); }

  /// Numbers whose sum depends on the order of the ranks.
  static at::Tensor numbers(int64_t count, at::ScalarType type) {
    const at::Tensor i = at::arange(count, at::kDouble);
    return (at::sin(i + 31 * rank()) * at::pow(2.0, (i + 5 * rank()).remainder(30))).to(type);
  }
};

TEST_F(NcclCommunicatorTest, SumsHaveTheHostsBits) {
  for (const at::ScalarType type : {at::kFloat, at::kDouble, at::kLong}) {
    for (const int64_t count : {1, 7, 10'001}) {
      expect_same(
          [](Communicator& group, const at::Tensor& mine) {
            at::Tensor sum = mine.clone();
            group.all_reduce_sum(sum, "reduce");
            return sum;
          },
          numbers(count, type));
    }
  }
  std::vector<int64_t> rows(size(), 2);
  rows[0] = 0;
  rows.back() += 2;
  expect_same(
      [&](Communicator& group, const at::Tensor& mine) { return group.reduce_scatter_sum(mine, rows, "scatter"); },
      numbers(2 * size() * 3, at::kFloat).view({2 * size(), 3}));
}

TEST_F(NcclCommunicatorTest, RowsGoWhereTheHostSendsThem) {
  for (int root = 0; root < size(); ++root) {
    expect_same(
        [&](Communicator& group, const at::Tensor& mine) {
          at::Tensor value = mine.clone();
          group.broadcast(value, root, "broadcast");
          return value;
        },
        numbers(9, at::kFloat));
  }
  expect_same([](Communicator& group, const at::Tensor& mine) { return group.all_gather(mine, "gather"); },
              numbers(3 * rank(), at::kLong).view({rank(), 3}));
  // (source + target) % 3 rows from each to each.
  std::vector<int64_t> counts;
  for (int64_t peer = 0; peer < size(); ++peer) counts.push_back((rank() + peer) % 3);
  int64_t all = 0;
  for (const int64_t count : counts) all += count;
  expect_same(
      [&](Communicator& group, const at::Tensor& mine) { return group.all_to_all(mine, counts, counts, "exchange"); },
      numbers(all * 5000, at::kFloat).view({all, 5000}));
}

/// The stream that uses a result waits for it; the host does not. Several are under way, and waited for in any order.
TEST_F(NcclCommunicatorTest, WorksAreWaitedForInAnyOrder) {
  const auto nccl = make_nccl(world());
  const std::vector<int64_t> ones(size(), 1);
  std::vector<std::unique_ptr<Work>> works;
  for (int i = 0; i < 3; ++i) {
    const at::Tensor rows = on_device(at::full({size(), 4}, static_cast<double>(10 * rank() + i)), device_of("cuda"));
    works.push_back(nccl->start_all_to_all(rows, ones, ones, concat("exchange ", i)));
  }
  for (const int i : {2, 0, 1}) {
    const at::Tensor arrived = works[i]->wait() + 1;
    for (int64_t peer = 0; peer < size(); ++peer)
      EXPECT_EQ(arrived[peer].sum().item<double>(), 4.0 * static_cast<double>(10 * peer + i + 1));
  }
  nccl->start_all_to_all(on_device(at::ones({size(), 4}), device_of("cuda")), ones, ones, "forgotten");
}

TEST_F(NcclCommunicatorTest, WhatARankDoesNotWaitForReachesTheOthers) {
  {
    const auto nccl = make_nccl(world());
    const std::vector<int64_t> ones(size(), 1);
    const at::Tensor mine = on_device(at::full({1, 20'000}, static_cast<double>(rank())), device_of("cuda"));
    std::unique_ptr<Work> all = nccl->start_all_gather(mine, ones, "numbers");
    if (rank() > 0) {
      EXPECT_EQ(all->wait()[0][19'999].item<double>(), 0);
    }
  }
  world().barrier("after the communicator");
}

TEST_F(NcclCommunicatorTest, GroupsAreTheirOwn) {
  const auto nccl = make_nccl(world());
  const auto part = nccl->split(static_cast<int>(rank() % 2), "halves");
  at::Tensor sum = on_device(at::full({3}, static_cast<double>(rank()), at::kDouble), device_of("cuda"));
  part->all_reduce_sum(sum, "sum of a half");
  double expected = 0;
  for (int64_t r = rank() % 2; r < size(); r += 2) expected += static_cast<double>(r);
  EXPECT_EQ(sum[0].item<double>(), expected);
}

TEST_F(NcclCommunicatorTest, AMissingRankIsATimeoutThatNamesTheOperation) {
  {
    const auto nccl = make_nccl(world(), milliseconds(500));
    at::Tensor value = on_device(at::ones({8}), device_of("cuda"));
    nccl->all_reduce_sum(value, "all are there");
    if (rank() == 0) {
      EXPECT_THAT(
          [&] {
            nccl->all_reduce_sum(value, "layer 3 gradients");
            value.cpu();  // ends with the aborted work
            nccl->all_reduce_sum(value, "the next");
          },
          ThrowsMessage<Timeout>(AllOf(HasSubstr("within 500 ms"), HasSubstr("'layer 3 gradients'"),
                                       HasSubstr(concat("of rank 0 of ", size())))));
    } else {
      std::this_thread::sleep_for(milliseconds(1500));
    }
  }
  world().barrier("after the timeout");
}

TEST_F(NcclCommunicatorTest, RanksThatDisagreeEndWithAnError) {
  {
    const auto nccl = make_nccl(world(), milliseconds(5000));
    const auto disagree = [&] {
      const at::Tensor rows = on_device(at::ones({size() * (rank() == 0 ? 2 : 1), 4}), device_of("cuda"));
      const std::vector<int64_t> counts(size(), rank() == 0 ? 2 : 1);
      nccl->all_to_all(rows, counts, counts, "other sizes").cpu();
      nccl->all_to_all(rows, counts, counts, "the next").cpu();
      at::Tensor value = on_device(at::ones({1}), device_of("cuda"));
      nccl->all_reduce_sum(value, "the last");
      value.cpu();
      nccl->all_reduce_sum(value, "the very last");
    };
    EXPECT_THAT(disagree, ThrowsMessage<HardwareError>(HasSubstr("bytes")));
  }
  world().barrier("after the error");
}

}  // namespace
}  // namespace moe
