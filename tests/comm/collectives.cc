#include "comm/collectives.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>
#include <memory>
#include <numeric>
#include <string>
#include <vector>

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
  EXPECT_EQ(world.exchange_counts(send, "counts", 1), receive);
  std::vector<int64_t> send_two, receive_two;
  for (int peer = 0; peer < n; ++peer) {
    send_two.insert(send_two.end(), {send[peer], 100 * me + peer});
    receive_two.insert(receive_two.end(), {receive[peer], 100 * peer + me});
  }
  EXPECT_EQ(world.exchange_counts(send_two, "two counts", 2), receive_two);
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

/// Rows of rank r in a tensor spread unevenly: rank 1 gets none.
std::vector<int64_t> uneven_rows(int ranks) {
  std::vector<int64_t> rows;
  for (int r = 0; r < ranks; ++r) rows.push_back(r == 1 ? 0 : 3 + 2 * r);
  return rows;
}

template <typename T>
void check_reduce_scatter(Communicator& world) {
  const std::vector<int64_t> rows = uneven_rows(world.size());
  const int64_t width = 7, all = std::accumulate(rows.begin(), rows.end(), int64_t{0});
  const at::Tensor mine = at::empty({all, width}, c10::CppTypeToScalarType<T>::value);
  std::vector<T> sums(all * width);
  for (int64_t i = 0; i < all * width; ++i) {
    mine.mutable_data_ptr<T>()[i] = static_cast<T>(element(world.rank(), i));
    for (int r = 0; r < world.size(); ++r) sums[i] = static_cast<T>(sums[i] + static_cast<T>(element(r, i)));
  }
  const at::Tensor before = mine.clone();
  const at::Tensor part = world.reduce_scatter_sum(mine, rows, "reduce-scatter");
  EXPECT_EQ(part.sizes(), (std::vector<int64_t>{rows[world.rank()], width}));
  const int64_t first = std::accumulate(rows.begin(), rows.begin() + world.rank(), int64_t{0});
  EXPECT_TRUE(part.numel() == 0 ||
              std::memcmp(part.const_data_ptr<T>(), sums.data() + first * width, part.nbytes()) == 0)
      << c10::toString(part.scalar_type()) << ": not the sums in rank order, to the bit";
  EXPECT_TRUE(mine.equal(before)) << "what was handed in was changed";
  EXPECT_EQ(world.reduce_scatter_sum(at::empty({0, 4}), std::vector<int64_t>(world.size(), 0), "of nothing").sizes(),
            (std::vector<int64_t>{0, 4}));
}

/// What is in flight together: three kinds, two of each under one name, begun in the same order everywhere and waited
/// for in an order of each rank's own, while other collectives go on.
void check_works_in_flight(Communicator& world) {
  const int n = world.size(), me = world.rank();
  const std::vector<int64_t> rows = uneven_rows(n);
  const int64_t all = std::accumulate(rows.begin(), rows.end(), int64_t{0});
  std::vector<std::unique_ptr<Work>> works;
  std::vector<at::Tensor> expected;
  for (int round = 0; round < 2; ++round) {
    const double base = 10'000 * round;
    works.push_back(world.start_reduce_scatter_sum(at::full({all, 2}, base + me, at::kDouble), rows, "in flight: sum"));
    expected.push_back(at::full({rows[me], 2}, n * base + n * (n - 1) / 2.0, at::kDouble));

    works.push_back(world.start_all_gather(at::full({rows[me], 3}, base + me, at::kDouble), rows, "in flight: gather"));
    std::vector<at::Tensor> parts;
    for (int r = 0; r < n; ++r) parts.push_back(at::full({rows[r], 3}, base + r, at::kDouble));
    expected.push_back(at::cat(parts));

    // Rank s sends (s + t) % 3 rows to rank t.
    std::vector<int64_t> send, receive;
    std::vector<at::Tensor> sent, received;
    for (int peer = 0; peer < n; ++peer) {
      send.push_back((me + peer + round) % 3);
      receive.push_back(send.back());
      sent.push_back(at::full({send.back(), 300}, base + row_value(me, peer, 0), at::kDouble));
      received.push_back(at::full({receive.back(), 300}, base + row_value(peer, me, 0), at::kDouble));
    }
    works.push_back(world.start_all_to_all(at::cat(sent), send, receive, "in flight: rows"));
    expected.push_back(at::cat(received));
  }
  world.barrier("while they are in flight");
  std::vector<size_t> order;
  for (size_t i = 0; i < works.size(); ++i) order.push_back((i + me) % works.size());
  if (me % 2 == 1) std::reverse(order.begin(), order.end());
  for (const size_t i : order) {
    const at::Tensor result = works[i]->wait(std::chrono::seconds(30));
    EXPECT_TRUE(result.equal(expected[i])) << "work " << i << " of rank " << me;
    EXPECT_THROW(works[i]->wait(), Internal) << "a result is given once";
  }
  works.clear();

  // Who forgets one owes the others nothing; what he begins next under that name is not mixed up with it.
  std::unique_ptr<Work> forgotten = world.start_all_gather(at::full({rows[me]}, 1.0), rows, "forgotten");
  if (me == 0) forgotten.reset();
  const std::unique_ptr<Work> next = world.start_all_gather(at::full({rows[me]}, 2.0), rows, "forgotten");
  EXPECT_TRUE(next->wait().equal(at::full({all}, 2.0)));
  if (forgotten) {
    EXPECT_TRUE(forgotten->wait().equal(at::full({all}, 1.0)));
  }
  world.barrier("after the forgotten one");
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
  EXPECT_THROW(world.exchange_counts(counts, "a count too many", 1), Internal);
  EXPECT_THROW(world.all_to_all(at::zeros({world.size(), 1}), counts, counts, "a target too many"), Internal);
  const std::vector<int64_t> ones(world.size(), 1);
  EXPECT_THROW(world.start_reduce_scatter_sum(at::zeros({world.size()}, at::kInt), ones, "ints"), Internal);
  EXPECT_THROW(world.start_reduce_scatter_sum(at::zeros({world.size() + 1}), ones, "a row too many"), Internal);
  EXPECT_THROW(world.start_all_gather(at::zeros({2}), ones, "a row too many"), Internal);
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
  check_reduce_scatter<float>(world);
  check_reduce_scatter<double>(world);
  check_reduce_scatter<int64_t>(world);
  check_works_in_flight(world);
  check_bytes(world);
  check_splits(world);
  check_agreements(world);
  check_differences(world);
  check_refusals(world);
  world.barrier("end");
}

}  // namespace moe::testing
