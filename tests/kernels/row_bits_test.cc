// The promise that layouts of expert parallelism rest on: a row's bits do not depend on which rows share its batch.
#include <gtest/gtest.h>
#include <omp.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <random>
#include <thread>

#include "kernels/matmul.h"
#include "kernels/matmul_cpu.h"
#include "kernels/test_matrix.h"

namespace moe::kernels::testing {
namespace {

using Product = void (*)(ConstMatrixView, ConstMatrixView, MatrixView, Queue);

/// Sets the OpenMP threads of this thread for as long as it lives.
class ThreadCount {
 public:
  explicit ThreadCount(int threads) : before_(omp_get_max_threads()) { omp_set_num_threads(threads); }
  ~ThreadCount() { omp_set_num_threads(before_); }

 private:
  int before_;
};

struct Differences {
  int64_t batches = 0, differing = 0;
};

/// Compares the rows of sub-batches of a full batch of T rows [T, in] -> [T, out] with the same rows of the full batch.
Differences compare_sub_batches(Product product, bool is_forward, DType dtype, int64_t T, int64_t in, int64_t out,
                                std::mt19937_64& generator) {
  TestMatrix x(DeviceType::kCpu, dtype, T, in, 0, random_values(T * in, dtype, generator()));
  const int64_t rows = is_forward ? out : in, cols = is_forward ? in : out;
  TestMatrix w(DeviceType::kCpu, dtype, rows, cols, 0, random_values(rows * cols, dtype, generator()));
  TestMatrix spread_w(DeviceType::kCpu, dtype, rows, cols, 6, w.values());
  TestMatrix spread_x(DeviceType::kCpu, dtype, T, in, 3, x.values());
  TestMatrix full(DeviceType::kCpu, dtype, T, out, 0);
  product(x.view(), w.view(), full.view(), {});
  const std::vector<char> expected = full.bytes();
  Differences result;
  // Some operands lie in rows further apart than they are long, as a slice of columns does.
  for (int64_t size :
       {int64_t{1}, int64_t{2}, int64_t{7}, int64_t{16}, int64_t{31}, int64_t{64}, int64_t{129}, T - 1}) {
    const int64_t first = std::uniform_int_distribution<int64_t>(0, T - size)(generator);
    TestMatrix part(DeviceType::kCpu, dtype, size, out, size % 3);
    product((size % 2 ? x : spread_x).rows(first, size), (size % 3 ? w : spread_w).view(), part.view(), {});
    const std::vector<char> got = part.bytes();
    ++result.batches;
    result.differing += std::memcmp(got.data(), expected.data() + first * out * dtype_size(dtype), got.size()) != 0;
  }
  return result;
}

TEST(RowBitsTest, RowsDoNotDependOnTheBatch) {
  for (const DType dtype : {DType::kFloat32, DType::kBFloat16, DType::kFloat64}) {
    std::mt19937_64 generator(7);
    Differences total;
    for (const int threads : {1, 2}) {
      const ThreadCount count(threads);
      // Wide batches make the library choose other blocks than narrow ones; float64 runs on our loops, which are slow.
      for (const int64_t T : dtype == DType::kFloat64 ? std::vector<int64_t>{150} : std::vector<int64_t>{150, 1100}) {
        for (const auto& [in, out] : {std::pair<int64_t, int64_t>{43, 256},
                                      {256, 43},
                                      {96, 256},
                                      {256, 192},
                                      {768, 256},
                                      {577, 530},
                                      {1024, 86},
                                      {86, 1024}}) {
          for (const bool is_forward : {true, false}) {
            const Differences found =
                compare_sub_batches(is_forward ? Product{linear_forward} : Product{linear_input_gradient}, is_forward,
                                    dtype, T, in, out, generator);
            EXPECT_EQ(found.differing, 0) << name_of(dtype) << (is_forward ? " forward " : " input gradient ") << in
                                          << " -> " << out << ", T " << T << ", threads " << threads;
            total.batches += found.batches;
            total.differing += found.differing;
          }
        }
      }
    }
    std::printf("%s: %ld of %ld sub-batches differ from the full batch\n", name_of(dtype).c_str(),
                static_cast<long>(total.differing), static_cast<long>(total.batches));
  }
}

TEST(RowBitsTest, RepeatingAWeightGradientGivesTheSameBits) {
  for (const DType dtype : {DType::kFloat32, DType::kBFloat16, DType::kFloat64}) {
    const int64_t T = 513, I = 96, O = 86;
    TestMatrix x(DeviceType::kCpu, dtype, T, I, 0, random_values(T * I, dtype, 1));
    TestMatrix dy(DeviceType::kCpu, dtype, T, O, 0, random_values(T * O, dtype, 2));
    TestMatrix first(DeviceType::kCpu, dtype, O, I, 0), again(DeviceType::kCpu, dtype, O, I, 9);
    for (const int threads : {1, 2}) {
      const ThreadCount count(threads);
      linear_weight_gradient(dy.view(), x.view(), first.view());
      linear_weight_gradient(dy.view(), x.view(), again.view());
      EXPECT_TRUE(first.bytes() == again.bytes()) << name_of(dtype) << ", " << threads << " threads";
    }
  }
}

/// Every row count, as experts meet them.
TEST(RowBitsTest, EveryRowCountGivesTheRowsOfTheFullBatch) {
  constexpr int64_t kMax = 300;
  for (const DType dtype : {DType::kFloat32, DType::kBFloat16}) {
    for (const auto& [I, O] : {std::pair<int64_t, int64_t>{96, 43}, {300, 64}}) {  // in one run and in slices
      TestMatrix x(DeviceType::kCpu, dtype, kMax, I, 0, random_values(kMax * I, dtype, 1));
      TestMatrix w(DeviceType::kCpu, dtype, O, I, 0, random_values(O * I, dtype, 2));
      TestMatrix dy(DeviceType::kCpu, dtype, kMax, O, 0, random_values(kMax * O, dtype, 3));
      TestMatrix all_y(DeviceType::kCpu, dtype, kMax, O, 0), all_dx(DeviceType::kCpu, dtype, kMax, I, 0);
      linear_forward(x.view(), w.view(), all_y.view());
      linear_input_gradient(dy.view(), w.view(), all_dx.view());
      const std::vector<char> y_bytes = all_y.bytes(), dx_bytes = all_dx.bytes();
      int64_t wrong = 0;
      for (int64_t rows = 1; rows <= kMax; ++rows) {
        const int64_t first = (kMax - rows) / 2;
        TestMatrix y(DeviceType::kCpu, dtype, rows, O, rows % 2), dx(DeviceType::kCpu, dtype, rows, I, 0);
        linear_forward(x.rows(first, rows), w.view(), y.view());
        linear_input_gradient(dy.rows(first, rows), w.view(), dx.view());
        const std::vector<char> part_y = y.bytes(), part_dx = dx.bytes();
        wrong += std::memcmp(part_y.data(), y_bytes.data() + first * O * dtype_size(dtype), part_y.size()) != 0;
        wrong += std::memcmp(part_dx.data(), dx_bytes.data() + first * I * dtype_size(dtype), part_dx.size()) != 0;
      }
      EXPECT_EQ(wrong, 0) << name_of(dtype) << " " << I << " -> " << O;
    }
  }
}

/// In bf16 a weight gradient is of the rows and as many rows of zeros as make their number a prepared one: they change
/// no bit.
TEST(RowBitsTest, RowsOfZerosAddExactZerosToAWeightGradientInBFloat16) {
  constexpr int64_t kMax = 160, I = 96, O = 43;
  constexpr DType kType = DType::kBFloat16;
  for (int64_t rows = 1; rows < kMax; rows += 13) {
    std::vector<double> x_values = random_values(kMax * I, kType, 1), dy_values = random_values(kMax * O, kType, 2);
    std::fill(x_values.begin() + rows * I, x_values.end(), 0);
    std::fill(dy_values.begin() + rows * O, dy_values.end(), 0);
    TestMatrix x(DeviceType::kCpu, kType, kMax, I, 0, x_values), dy(DeviceType::kCpu, kType, kMax, O, 0, dy_values);
    TestMatrix alone(DeviceType::kCpu, kType, O, I, 0), padded(DeviceType::kCpu, kType, O, I, 0);
    linear_weight_gradient(dy.rows(0, rows), x.rows(0, rows), alone.view());
    linear_weight_gradient(dy.view(), x.view(), padded.view());
    EXPECT_TRUE(alone.bytes() == padded.bytes()) << rows << " rows";
  }
}

/// The row counts of experts vary at every step; what the library compiles for them must come to an end.
TEST(RowBitsTest, PreparedProductsAreBoundedWhateverTheRowCounts) {
  constexpr int64_t kMax = 520;
  for (const DType dtype : {DType::kFloat32, DType::kBFloat16}) {
    for (const auto& [I, O] : {std::pair<int64_t, int64_t>{72, 88}, {328, 24}}) {
      TestMatrix x(DeviceType::kCpu, dtype, kMax, I, 0, random_values(kMax * I, dtype, 1));
      TestMatrix w(DeviceType::kCpu, dtype, O, I, 0, random_values(O * I, dtype, 2));
      TestMatrix dy(DeviceType::kCpu, dtype, kMax, O, 0, random_values(kMax * O, dtype, 3));
      TestMatrix y(DeviceType::kCpu, dtype, kMax, O, 0), dx(DeviceType::kCpu, dtype, kMax, I, 0),
          dw(DeviceType::kCpu, dtype, O, I, 0);
      const auto run = [&](int64_t rows) {
        linear_forward(x.rows(0, rows), w.view(), y.rows(0, rows));
        linear_input_gradient(dy.rows(0, rows), w.view(), dx.rows(0, rows));
        linear_weight_gradient(dy.rows(0, rows), x.rows(0, rows), dw.view());
      };
      const int64_t before = prepared_products();
      for (int64_t rows = 1; rows <= kMax; ++rows) run(rows);
      const int64_t made = prepared_products() - before;
      // 32 and 16 a doubling, for each of three products, of which one (in fp32) needs a single one.
      EXPECT_LE(made, 3 * (32 + 16 * 5)) << name_of(dtype) << " " << I << " -> " << O << ": of " << 3 * kMax
                                         << " shapes";
      for (int64_t rows = kMax; rows >= 1; rows -= 7) run(rows);
      EXPECT_EQ(prepared_products() - before, made) << "again the same row counts";
    }
  }
}

TEST(RowBitsTest, ThreadsThatCallAtOnceGetTheBitsOfOneThread) {
  // Ranks of a test are threads of one process: they share the cache of prepared products. Shapes repeat across
  // threads, so that some are prepared by two at once.
  constexpr int kThreads = 4;
  constexpr int64_t I = 96, O = 43, kSizes = 24;
  TestMatrix x(DeviceType::kCpu, DType::kFloat32, kSizes, I, 0, random_values(kSizes * I, DType::kFloat32, 1));
  TestMatrix w(DeviceType::kCpu, DType::kFloat32, O, I, 0, random_values(O * I, DType::kFloat32, 2));
  TestMatrix expected(DeviceType::kCpu, DType::kFloat32, kSizes, O, 0);
  const ThreadCount count(1);
  linear_forward(x.view(), w.view(), expected.view());
  const std::vector<char> expected_bytes = expected.bytes();
  std::vector<int> differing(kThreads, 0);
  std::vector<std::thread> threads;
  for (int thread = 0; thread < kThreads; ++thread) {
    threads.emplace_back([&, thread] {
      const ThreadCount one(1);
      for (int round = 0; round < 3; ++round) {
        for (int64_t size = 1; size <= kSizes; ++size) {
          TestMatrix y(DeviceType::kCpu, DType::kFloat32, size, O, 0);
          linear_forward(x.rows(0, size), w.view(), y.view(), {});
          const std::vector<char> got = y.bytes();
          differing[thread] += std::memcmp(got.data(), expected_bytes.data(), got.size()) != 0;
        }
      }
    });
  }
  for (std::thread& thread : threads) {
    thread.join();
  }
  EXPECT_EQ(differing, std::vector<int>(kThreads, 0));
}

}  // namespace
}  // namespace moe::kernels::testing
