// The leader's view of the other ranks. The ranks that die are processes of their own; kill -9 is what ends them.

#include "worker/gang_control.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <memory>
#include <thread>

#include "common/error.h"
#include "testing/background_process.h"

namespace moe {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using testing::eventually;

constexpr char kSecret[] = "of this gang";
constexpr milliseconds kHang{60'000};
constexpr milliseconds kGone{100};
constexpr milliseconds kLong{30'000};

/// Rank 1 as a process: attaches, does `work` and then nothing more.
class RankProcess {
 public:
  explicit RankProcess(void (*work)(GangControlClient&)) {
    int ends[2];
    if (::pipe(ends) != 0) throw Internal("no pipe");
    pid_ = ::fork();
    if (pid_ == 0) {
      int port = 0;
      if (::read(ends[0], &port, sizeof port) != sizeof port) ::_exit(1);
      GangControlClient client(concat("127.0.0.1:", port), kSecret, 1);
      try {
        work(client);
      } catch (const std::exception&) {
        ::_exit(1);
      }
      while (true) ::pause();
    }
    ::close(ends[0]);
    write_end_ = ends[1];
  }
  ~RankProcess() {
    kill();
    ::close(write_end_);
  }
  RankProcess(const RankProcess&) = delete;
  RankProcess& operator=(const RankProcess&) = delete;

  void join(const GangControlServer& server) {
    const int port = server.port();
    ASSERT_EQ(::write(write_end_, &port, sizeof port), static_cast<ssize_t>(sizeof port));
  }
  void kill() {
    if (pid_ <= 0) return;
    ::kill(pid_, SIGKILL);
    ::waitpid(pid_, nullptr, 0);
    pid_ = 0;
  }

 private:
  pid_t pid_ = 0;
  int write_end_ = -1;
};

std::string trouble_of(GangControlServer& server, milliseconds hang_timeout = kHang) {
  const std::optional<RankTrouble> trouble = server.trouble(hang_timeout, kGone);
  return trouble ? trouble->message : "";
}

class GangControlTest : public ::testing::Test {
 protected:
  /// gRPC does not work in a child that is forked after it has started.
  static void SetUpTestSuite() {
    attached = std::make_unique<RankProcess>([](GangControlClient&) {});  // in no other call
    waiting = std::make_unique<RankProcess>([](GangControlClient& client) {
      const v1::RankOrder order = client.next_order(v1::RANK_PHASE_IDLE, 0, {});
      client.next_order(v1::RANK_PHASE_READY, order.order_id(), {});
    });
  }
  static void TearDownTestSuite() {
    attached.reset();
    waiting.reset();
  }
  inline static std::unique_ptr<RankProcess> attached, waiting;
};

TEST_F(GangControlTest, ARankThatDiesBetweenItsCallsIsSeen) {
  GangControlServer server(2, "127.0.0.1", kSecret);
  attached->join(server);
  server.await_ranks(kLong);
  EXPECT_EQ(trouble_of(server), "");
  attached->kill();
  ASSERT_TRUE(eventually(seconds(20), [&] { return !trouble_of(server).empty(); }));
  EXPECT_EQ(trouble_of(server), "rank 1 ended: its process is gone");
}

TEST_F(GangControlTest, ARankThatDiesWhileItWaitsForAnOrderIsSeen) {
  GangControlServer server(2, "127.0.0.1", kSecret);
  waiting->join(server);
  server.await_ranks(kLong);
  EXPECT_FALSE(server.prepare("a lease", kLong).has_value());
  waiting->kill();
  ASSERT_TRUE(eventually(seconds(20), [&] { return !trouble_of(server).empty(); }));
  EXPECT_EQ(trouble_of(server), "rank 1 ended: its process is gone");
}

TEST_F(GangControlTest, ARankThatAttachesAgainIsNotGone) {
  GangControlServer server(2, "127.0.0.1", kSecret);
  const std::string target = concat("127.0.0.1:", server.port());
  auto first = std::make_unique<GangControlClient>(target, kSecret, 1);
  server.await_ranks(kLong);
  first.reset();
  ASSERT_TRUE(eventually(seconds(20), [&] { return !trouble_of(server).empty(); }));
  const GangControlClient second(target, kSecret, 1);
  ASSERT_TRUE(eventually(seconds(20), [&] { return trouble_of(server).empty(); }));
}

TEST_F(GangControlTest, AfterALeaderStoodStillItsRanksHaveTimeToConnectAgain) {
  GangControlServer server(2, "127.0.0.1", kSecret);
  auto client = std::make_unique<GangControlClient>(concat("127.0.0.1:", server.port()), kSecret, 1);
  server.await_ranks(kLong);
  EXPECT_EQ(trouble_of(server), "");
  client.reset();
  std::this_thread::sleep_for(milliseconds(5500));  // the leader did not look for so long: it stood still
  const auto woken = std::chrono::steady_clock::now();
  EXPECT_EQ(trouble_of(server), "");
  ASSERT_TRUE(eventually(seconds(20), [&] { return !trouble_of(server).empty(); }));
  EXPECT_GE(std::chrono::steady_clock::now() - woken, seconds(3));
}

TEST_F(GangControlTest, SilenceIsTroubleUnlessTheRankWaitsForAnOrder) {
  constexpr milliseconds kShort{200};
  GangControlServer server(2, "127.0.0.1", kSecret);
  GangControlClient client(concat("127.0.0.1:", server.port()), kSecret, 1);
  server.await_ranks(kLong);
  std::thread waits([&] { client.next_order(v1::RANK_PHASE_IDLE, 0, {}); });
  std::this_thread::sleep_for(2 * kShort);
  ASSERT_TRUE(eventually(seconds(20), [&] { return trouble_of(server, kShort).empty(); }))
      << "its call has not arrived";
  std::this_thread::sleep_for(2 * kShort);  // in its call, which the leader keeps for 5 s
  EXPECT_EQ(trouble_of(server, kShort), "");
  EXPECT_THROW(server.prepare("a lease", milliseconds(1000)), Timeout);  // takes the order, and answers no more
  waits.join();
  server.start();
  ASSERT_TRUE(eventually(seconds(20), [&] { return !trouble_of(server, kShort).empty(); }));
  EXPECT_TRUE(trouble_of(server, kShort).starts_with("rank 1 gives no sign of life for "))
      << trouble_of(server, kShort);
}

TEST_F(GangControlTest, ARankThatNeverComesIsNamed) {
  GangControlServer server(3, "127.0.0.1", kSecret);
  const GangControlClient client(concat("127.0.0.1:", server.port()), kSecret, 1);
  try {
    server.await_ranks(milliseconds(1000));
    FAIL() << "rank 2 is missing";
  } catch (const Timeout& error) {
    EXPECT_NE(std::string(error.what()).find("rank 2 did not reach the leader's control port "), std::string::npos)
        << error.what();
  }
}

TEST_F(GangControlTest, AStrangerIsRefused) {
  GangControlServer server(2, "127.0.0.1", kSecret);
  GangControlClient stranger(concat("127.0.0.1:", server.port()), "of another gang", 1);
  EXPECT_THROW(stranger.next_order(v1::RANK_PHASE_IDLE, 0, {}), Internal);
  EXPECT_THROW(server.await_ranks(milliseconds(300)), Timeout);
  GangControlClient third(concat("127.0.0.1:", server.port()), kSecret, 2);
  EXPECT_THROW(third.next_order(v1::RANK_PHASE_IDLE, 0, {}), Internal);
}

}  // namespace
}  // namespace moe
