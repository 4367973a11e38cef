#include "comm/collectives.h"

#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <string>

#include "comm/agreement.h"
#include "common/error.h"

namespace moe::testing {
namespace {

/// Element i of rank r's tensor: numbers whose sum depends on the order of the ranks in float and in double.
double element(int64_t rank, int64_t i) {
  return std::ldexp(std::sin(static_cast<double>(31 * rank + i)), static_cast<int>((5 * rank + i) % 30));
}

template <typename T>
void check_reduction(Communicator& world, int64_t count) {
  at::Tensor sum = at::empty({count}, c10::CppTypeToScalarType<T>::value);
  std::vector<T> expected(count);
  for (int64_t i = 0; i < count; ++i) {
    sum.mutable_data_ptr<T>()[i] = static_cast<T>(element(world.rank(), i));
    // ((r0 + r1) + r2) + ..., each sum rounded to T.
    for (int r = 0; r < world.size(); ++r) expected[i] = static_cast<T>(expected[i] + static_cast<T>(element(r, i)));
  }
  world.all_reduce_sum(sum, "reduce");
  const T* const actual = sum.const_data_ptr<T>();
  int64_t wrong = 0;
  for (int64_t i = 0; i < count; ++i) wrong += actual[i] != expected[i];
  EXPECT_EQ(wrong, 0) << "of " << count << " elements of " << c10::toString(sum.scalar_type()) << " on rank "
                      << world.rank();
}

void check_broadcasts(Communicator& world) {
  for (int root = 0; root < world.size(); ++root) {
    for (const at::ScalarType dtype : {at::kInt, at::kBFloat16, at::kBool, at::kDouble}) {
      const at::Tensor sent = (at::arange(7) % (root + 2)).to(dtype);
      at::Tensor value = world.rank() == root ? sent.clone() : at::zeros({7}, dtype);
      world.broadcast(value, root, "broadcast");
      EXPECT_TRUE(value.equal(sent)) << "root " << root << " " << c10::toString(dtype);
    }
    at::Tensor nothing = at::empty({0, 3});
    world.broadcast(nothing, root, "broadcast nothing");
  }
}

/// Rank r holds r rows [r, r, r]; rank 0 none.
void check_all_gather(Communicator& world) {
  const at::Tensor gathered = world.all_gather(at::full({world.rank(), 3}, world.rank(), at::kLong), "gather");
  std::vector<int64_t> expected;
  for (int r = 0; r < world.size(); ++r) expected.insert(expected.end(), 3 * r, r);
  EXPECT_TRUE(gathered.equal(at::tensor(expected, at::kLong).view({-1, 3})));
  EXPECT_EQ(world.all_gather(at::empty({0, 5}), "gather nothing").sizes(), (std::vector<int64_t>{0, 5}));
  // A view whose rows lie apart is packed first.
  const at::Tensor view = at::arange(12, at::kFloat).view({3, 4}).t().narrow(0, 1, 2);
  const at::Tensor packed = world.all_gather(view, "gather a view");
  for (int r = 0; r < world.size(); ++r) EXPECT_TRUE(packed.narrow(0, 2 * r, 2).equal(view));
}

/// Row i of those that `source` sends to `target`.
double row_value(int source, int target, int64_t i) {
  return 1000 * source + 100 * target + static_cast<double>(i);
}

/// `rows(source, target)` rows of `width` each.
template <typename Rows>
void check_all_to_all(Communicator& world, const Rows& rows, int64_t width, at::ScalarType dtype) {
  const int n = world.size(), me = world.rank();
  std::vector<int64_t> send(n), receive(n);
  std::vector<double> sent, expected;
  for (int peer = 0; peer < n; ++peer) {
    send[peer] = rows(me, peer);
    receive[peer] = rows(peer, me);
    for (int64_t i = 0; i < send[peer] * width; ++i) sent.push_back(row_value(me, peer, i));
    for (int64_t i = 0; i < receive[peer] * width; ++i) expected.push_back(row_value(peer, me, i));
  }
  EXPECT_EQ(world.exchange_counts(send, "counts"), receive);
  const at::Tensor arrived =
      world.all_to_all(at::tensor(sent, at::kDouble).view({-1, width}).to(dtype), send, receive, "rows");
  EXPECT_EQ(arrived.scalar_type(), dtype);
  EXPECT_TRUE(arrived.equal(at::tensor(expected, at::kDouble).view({-1, width}).to(dtype)))
      << c10::toString(dtype) << " width " << width;
}

void check_all_to_alls(Communicator& world) {
  for (const int64_t width : {1, 33}) {
    for (const at::ScalarType dtype : {at::kFloat, at::kDouble, at::kLong}) {
      check_all_to_all(
          world, [](int source, int target) { return (source + 2 * target) % 3; }, width, dtype);
      check_all_to_all(
          world, [](int, int target) { return target == 0 ? 5 : 0; }, width, dtype);
      check_all_to_all(
          world, [](int source, int) { return source == 0 ? 0 : 2; }, width, dtype);
      check_all_to_all(
          world, [](int, int) { return 0; }, width, dtype);
      check_all_to_all(
          world, [](int, int) { return 700; }, width, dtype);
    }
  }
}

void check_bytes(Communicator& world) {
  const int n = world.size(), me = world.rank();
  // Rank 0 gives nothing, the others bytes that are not text.
  const auto bytes = [](int rank) {
    return std::string(1000 * rank, static_cast<char>(200 + rank)) + std::string(rank, '\0');
  };
  const std::vector<std::string> all = world.all_gather_bytes(bytes(me), "bytes");
  ASSERT_EQ(all.size(), n);
  for (int r = 0; r < n; ++r) EXPECT_EQ(all[r], bytes(r));
  for (int root = 0; root < n; ++root) {
    EXPECT_EQ(world.broadcast_bytes(me == root ? concat("from ", root) : "", root, "hello"), concat("from ", root));
  }
}

void check_splits(Communicator& world) {
  const int n = world.size(), me = world.rank();
  // Twice: groups of one communicator do not get into each other's way.
  for (int repeat = 0; repeat < 2; ++repeat) {
    const auto half = world.split(me % 2, "split");
    EXPECT_EQ(half->size(), (n + 1 - me % 2) / 2);
    EXPECT_EQ(half->rank(), me / 2);
    const auto alone = half->split(me, "split alone");
    EXPECT_EQ(alone->size(), 1);
    EXPECT_EQ(alone->rank(), 0);
    // The halves do different things at the same time, the second one more of them.
    int64_t expected = 0;
    for (int r = me % 2; r < n; r += 2) expected += r;
    for (int i = 0; i <= me % 2; ++i) {
      at::Tensor ranks = at::full({1}, me, at::kLong);
      half->all_reduce_sum(ranks, concat("half ", me % 2));
      EXPECT_EQ(ranks.item<int64_t>(), expected);
    }
    world.barrier("halves are done");
  }
}

template <typename Thrown, typename Expected = Thrown>
void check_agreement(Communicator& world, int failing_rank) {
  try {
    agree(world, "one fails", [&] {
      if (world.rank() >= failing_rank) throw Thrown(concat("no luck on ", world.rank()));
    });
    ADD_FAILURE() << "no exception on rank " << world.rank();
  } catch (const Expected& error) {
    EXPECT_NE(dynamic_cast<const AgreedError*>(&error), nullptr);
    const std::string who = failing_rank == 0 ? "" : concat("rank ", failing_rank, ": ");
    EXPECT_EQ(error.what(), who + concat("no luck on ", failing_rank)) << "the lowest failing rank speaks for all";
  }
}

void check_agreements(Communicator& world) {
  agree(world, "nothing fails", [] {});
  for (const int failing_rank : {0, world.size() - 1}) {
    check_agreement<UsageError>(world, failing_rank);
    check_agreement<InvalidArgument>(world, failing_rank);
    check_agreement<Corruption, InvalidArgument>(world, failing_rank);
    check_agreement<Internal>(world, failing_rank);
    check_agreement<HardwareError>(world, failing_rank);
    check_agreement<StorageError>(world, failing_rank);
    check_agreement<Timeout>(world, failing_rank);
    check_agreement<Diverged>(world, failing_rank);
    check_agreement<NoReadableCheckpoint>(world, failing_rank);
    check_agreement<std::runtime_error, Internal>(world, failing_rank);
  }
  EXPECT_EQ(agree_on_result(world, "result", [&] { return concat("of rank ", world.rank()); }), "of rank 0");
  EXPECT_THROW(agree_on_result(world, "no result", []() -> std::string { throw StorageError("full"); }), StorageError);
}

void check_differences(Communicator& world) {
  const int me = world.rank(), last = world.size() - 1;
  std::map<std::string, std::string> facts{
      {"the same", "1"}, {concat("of one rank ", me), "2"}, {"empty: everywhere", ""}};
  EXPECT_EQ(differences_between_ranks(world, "no differences", facts), "");
  facts["odd\n\xff file"] = me == last ? "b" : "a";
  const std::string text = differences_between_ranks(world, "differences", facts);
  if (last == 0) {
    EXPECT_EQ(text, "");
  } else {
    EXPECT_EQ(text.find("odd\n\xff file: a on rank 0 ("), 0) << text;
    EXPECT_NE(text.find(concat("; b on rank ", last, " (")), std::string::npos) << text;
    EXPECT_EQ(text.find("same"), std::string::npos) << text;
  }
}

void check_refusals(Communicator& world) {
  at::Tensor transposed = at::zeros({2, 3}).t(), ints = at::zeros({2}, at::kInt);
  EXPECT_THROW(world.all_reduce_sum(transposed, "transposed"), Internal);
  EXPECT_THROW(world.all_reduce_sum(ints, "ints"), Internal);
  std::vector<int64_t> counts(world.size(), 1);
  EXPECT_THROW(world.all_to_all(at::zeros({world.size() + 1, 1}), counts, counts, "a row too many"), Internal);
  counts.push_back(0);
  EXPECT_THROW(world.exchange_counts(counts, "a count too many"), Internal);
  EXPECT_THROW(world.all_to_all(at::zeros({world.size(), 1}), counts, counts, "a target too many"), Internal);
}

}  // namespace

void check_collectives(Communicator& world) {
  for (const int64_t count : {0, 1, 17, 4096, 4097, 10001}) {
    check_reduction<float>(world, count);
    check_reduction<double>(world, count);
    check_reduction<int64_t>(world, count);
  }
  check_broadcasts(world);
  check_all_gather(world);
  check_all_to_alls(world);
  check_bytes(world);
  check_splits(world);
  check_agreements(world);
  check_differences(world);
  check_refusals(world);
  world.barrier("end");
}

}  // namespace moe::testing
