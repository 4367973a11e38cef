#include "comm/collectives.h"

#include <gtest/gtest.h>

#include "comm/agreement.h"
#include "common/error.h"

namespace moe::testing {
namespace {

void check_reduction(Communicator& world, at::ScalarType dtype, int64_t count) {
  // Rank order matters for bits: the sum must be ((r0 + r1) + r2) + ... on every rank.
  const auto part = [&](int rank) { return (at::arange(count, at::kDouble) * 0.1 + rank * 1.7).to(dtype); };
  at::Tensor expected = part(0);
  for (int r = 1; r < world.size(); ++r) expected = expected + part(r);
  at::Tensor sum = part(world.rank());
  world.all_reduce_sum(sum, "reduce");
  EXPECT_TRUE(sum.equal(expected)) << count << " " << c10::toString(dtype);
}

}  // namespace

void check_collectives(Communicator& world) {
  const int n = world.size(), me = world.rank();
  for (const at::ScalarType dtype : {at::kFloat, at::kDouble, at::kLong}) {
    for (const int64_t count : {0, 1, 17, 4096, 10001}) check_reduction(world, dtype, count);
  }
  at::Tensor value = at::full({3}, me, at::kInt);
  world.broadcast(value, n - 1, "broadcast");
  EXPECT_TRUE(value.eq(n - 1).all().item<bool>());

  const at::Tensor gathered = world.all_gather(at::full({me, 2}, me, at::kFloat), "gather");
  ASSERT_EQ(gathered.size(0), n * (n - 1) / 2);
  for (int64_t row = 0, r = 0, left = 0; row < gathered.size(0); ++row) {
    while (left == 0) left = ++r;
    EXPECT_EQ(gathered[row][1].item<float>(), static_cast<float>(r));
    --left;
  }

  // Rank r sends r * 10 + target, (r + target) % 3 times, to each target: some get nothing.
  std::vector<int64_t> send, receive, values;
  for (int target = 0; target < n; ++target) {
    send.push_back((me + target) % 3);
    receive.push_back((me + target) % 3);
    values.insert(values.end(), send.back(), me * 10 + target);
  }
  EXPECT_EQ(world.exchange_counts(send, "counts"), receive);
  const at::Tensor arrived = world.all_to_all(at::tensor(values, at::kLong).view({-1, 1}), send, receive, "rows");
  std::vector<int64_t> expected;
  for (int source = 0; source < n; ++source) expected.insert(expected.end(), receive[source], source * 10 + me);
  EXPECT_TRUE(arrived.flatten().equal(at::tensor(expected, at::kLong)));

  const std::vector<std::string> texts = world.all_gather_bytes(std::string(me, 'x'), "texts");
  for (int r = 0; r < n; ++r) EXPECT_EQ(texts[r], std::string(r, 'x'));
  EXPECT_EQ(world.broadcast_bytes(me == 0 ? "hello" : "", 0, "hello"), "hello");

  const auto half = world.split(me % 2, "split");
  EXPECT_EQ(half->size(), (n + 1 - me % 2) / 2);
  EXPECT_EQ(half->rank(), me / 2);
  at::Tensor ranks = at::full({1}, me, at::kLong);
  half->all_reduce_sum(ranks, "half");
  int64_t sum = 0;
  for (int r = me % 2; r < n; r += 2) sum += r;
  EXPECT_EQ(ranks.item<int64_t>(), sum);

  agree(world, "nothing fails", [] {});
  try {
    agree(world, "one fails", [&] {
      if (me == n - 1) throw StorageError("the disk of the last rank is full");
    });
    ADD_FAILURE() << "no exception on rank " << me;
  } catch (const StorageError& error) {
    EXPECT_NE(dynamic_cast<const AgreedError*>(&error), nullptr);
    EXPECT_NE(std::string(error.what()).find("the disk of the last rank is full"), std::string::npos);
  }
  EXPECT_EQ(agree_on_result(world, "result", [&] { return std::string("of rank ") + std::to_string(me); }), "of rank 0");
  world.barrier("end");
}

}  // namespace moe::testing
