#include "metrics/http_server.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <future>
#include <latch>
#include <stdexcept>
#include <thread>
#include <vector>

#include "common/error.h"
#include "metrics/http_client.h"
#include "metrics/metrics.h"
#include "testing/message_of.h"

namespace moe {
namespace {

using ::testing::HasSubstr;
using testing::http_get;
using testing::http_request;
using testing::HttpReply;

std::string why_not(const std::string& address, int port) {
  return testing::message_of<UsageError>([&] { HttpServer server(address, port); });
}

double cpu_seconds() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& t) {
    return static_cast<double>(t.tv_sec) + static_cast<double>(t.tv_usec) * 1e-6;
  };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

TEST(HttpServerTest, AnswersAPageWithItsPathQueryStatusAndType) {
  HttpServer server("127.0.0.1", 0);
  server.get("/echo", [](const HttpRequest& request) {
    std::string text = request.path;
    for (const auto& [name, value] : request.query) text += "|" + name + "=" + value;
    return HttpResponse{201, "application/json", text};
  });
  server.start();
  ASSERT_GT(server.port(), 0);
  const HttpReply reply = http_get(server.port(), "/echo?job=a%20b&x=%3D");
  EXPECT_EQ(reply.status, 201);
  EXPECT_EQ(reply.body, "/echo|job=a b|x==");
  EXPECT_EQ(reply.headers.at("content-type"), "application/json");
  EXPECT_EQ(reply.headers.at("content-length"), std::to_string(reply.body.size()));
}

TEST(HttpServerTest, ServesMetrics) {
  MetricsPage page;
  HttpServer server("127.0.0.1", 0);
  server.get("/metrics", [&](const HttpRequest&) { return page.response(); });
  server.start();
  const HttpReply reply = http_get(server.port(), "/metrics");
  EXPECT_EQ(reply.status, 200);
  EXPECT_EQ(reply.headers.at("content-type"), "text/plain; version=0.0.4; charset=utf-8");
  EXPECT_THAT(reply.body, HasSubstr("\nprocess_resident_memory_bytes "));
}

TEST(HttpServerTest, CompressesForThoseWhoAsk) {
  const std::string text(200000, 'x');
  HttpServer server("127.0.0.1", 0);
  server.get("/big", [&](const HttpRequest&) { return HttpResponse{.body = text}; });
  server.start();
  EXPECT_EQ(http_get(server.port(), "/big").body, text);
  const HttpReply packed =
      http_request(server.port(), "GET", "/big", "Accept-Encoding: gzip\r\n");  // as Prometheus does
  EXPECT_EQ(packed.headers.at("content-encoding"), "gzip");
  EXPECT_EQ(packed.body.substr(0, 2), "\x1f\x8b");
  EXPECT_LT(packed.body.size(), text.size() / 100);
}

TEST(HttpServerTest, PagesAreSetUpBeforeStart) {
  HttpServer server("127.0.0.1", 0);
  server.start();
  EXPECT_THROW(server.get("/late", [](const HttpRequest&) { return HttpResponse{}; }), Internal);
  EXPECT_THROW(server.ready_when([] { return false; }), Internal);
  EXPECT_THROW(server.start(), Internal);
  EXPECT_EQ(http_get(server.port(), "/readyz").status, 200);
}

TEST(HttpServerTest, HealthIsAlwaysOkAndReadinessIsAsked) {
  std::atomic<bool> is_ready = false;
  HttpServer server("127.0.0.1", 0);
  server.ready_when([&] { return is_ready.load(); });
  server.start();
  EXPECT_EQ(http_get(server.port(), "/healthz").status, 200);
  EXPECT_EQ(http_get(server.port(), "/healthz").body, "ok");
  EXPECT_EQ(http_get(server.port(), "/readyz").status, 503);
  EXPECT_EQ(http_get(server.port(), "/readyz").body, "not ready");
  is_ready = true;
  EXPECT_EQ(http_get(server.port(), "/readyz").status, 200);
  EXPECT_EQ(http_get(server.port(), "/readyz").body, "ready");
}

TEST(HttpServerTest, ReadyByDefault) {
  HttpServer server("127.0.0.1", 0);
  server.start();
  EXPECT_EQ(http_get(server.port(), "/readyz").status, 200);
}

TEST(HttpServerTest, APortInUseIsAnErrorThatNamesIt) {
  const HttpServer first("127.0.0.1", 0);  // also before start(): the port is taken at construction
  EXPECT_EQ(why_not("127.0.0.1", first.port()),
            "cannot listen on 127.0.0.1:" + std::to_string(first.port()) +
                ": address already in use; stop the program that has it, choose another port, or 0 for any free one");
}

TEST(HttpServerTest, OtherBadAddressesSayWhy) {
  EXPECT_EQ(why_not("127.0.0.1", 65536), "cannot listen on 127.0.0.1:65536: a port is 0 (any free one) to 65535");
  EXPECT_EQ(why_not("127.0.0.1", -1), "cannot listen on 127.0.0.1:-1: a port is 0 (any free one) to 65535");
  EXPECT_THAT(why_not("192.0.2.1", 0), HasSubstr("cannot listen on 192.0.2.1:0: cannot assign requested address"));
  EXPECT_THAT(why_not("no-such-host.invalid", 0),
              HasSubstr("cannot listen on no-such-host.invalid:0: the address is unknown ("));
}

TEST(HttpServerTest, ThePortIsFreeAgainAfterTheServerIsGone) {
  int port = 0;
  {
    HttpServer unstarted("127.0.0.1", 0);
    port = unstarted.port();
  }
  EXPECT_EQ(testing::open_connection(port), -1);
  for (int i = 0; i < 3; ++i) {
    HttpServer server("127.0.0.1", port);
    server.start();
    EXPECT_EQ(http_get(port, "/healthz").status, 200) << "life " << i;
  }
  EXPECT_EQ(testing::open_connection(port), -1);
}

TEST(HttpServerTest, AnUnknownPageListsTheKnownOnes) {
  HttpServer server("127.0.0.1", 0);
  server.get("/metrics", [](const HttpRequest&) { return HttpResponse{}; });
  server.start();
  const HttpReply reply = http_get(server.port(), "/metricz");
  EXPECT_EQ(reply.status, 404);
  EXPECT_EQ(reply.body, "404: there is no /metricz; there are: /healthz /metrics /readyz\n");
}

TEST(HttpServerTest, AFailingPageIsAnErrorPageAndTheServerGoesOn) {
  HttpServer server("127.0.0.1", 0);
  server.get("/bad", [](const HttpRequest&) -> HttpResponse { throw std::runtime_error("store is closed"); });
  server.start();
  const HttpReply reply = http_get(server.port(), "/bad");
  EXPECT_EQ(reply.status, 500);
  EXPECT_THAT(reply.body, HasSubstr("store is closed"));
  EXPECT_EQ(http_get(server.port(), "/healthz").status, 200);
}

TEST(HttpServerTest, OtherMethodsAndOddRequestsDoNotBreakIt) {
  HttpServer server("127.0.0.1", 0);
  server.start();
  EXPECT_EQ(http_request(server.port(), "POST", "/healthz", "Content-Length: 0\r\n").status, 405);
  EXPECT_EQ(http_request(server.port(), "DELETE", "/healthz").status, 405);
  const HttpReply head = http_request(server.port(), "HEAD", "/healthz");
  EXPECT_EQ(head.status, 200);
  EXPECT_EQ(head.body, "");
  http_request(server.port(), "GET", "/healthz", "Range: bytes=5000-6000\r\n");
  http_request(server.port(), "GET", "/healthz", "Range: bytes=9-1\r\n");
  http_request(server.port(), "NONSENSE", "/healthz");
  EXPECT_GE(http_get(server.port(), "/" + std::string(20000, 'a')).status, 400);
  EXPECT_EQ(http_get(server.port(), "/healthz").body, "ok");
}

TEST(HttpServerTest, TwoRequestsAreAnsweredAtTheSameTime) {
  std::latch both(2);
  HttpServer server("127.0.0.1", 0);
  server.get("/meet", [&](const HttpRequest&) {
    both.arrive_and_wait();
    return HttpResponse{.body = "met"};
  });
  server.start();
  auto other = std::async(std::launch::async, [&] { return http_get(server.port(), "/meet").body; });
  EXPECT_EQ(http_get(server.port(), "/meet").body, "met");
  EXPECT_EQ(other.get(), "met");
}

TEST(HttpServerTest, SilentConnectionsHoldItUpForSecondsOnly) {
  HttpServer server("127.0.0.1", 0);
  server.start();
  std::vector<int> silent;
  for (int i = 0; i < 4; ++i) silent.push_back(testing::open_connection(server.port()));
  const auto began = std::chrono::steady_clock::now();
  EXPECT_EQ(http_get(server.port(), "/healthz").body, "ok");
  EXPECT_LT(std::chrono::steady_clock::now() - began, std::chrono::seconds(8));
  for (const int fd : silent) close(fd);
}

TEST(HttpServerTest, CostsNothingWhileIdle) {
  HttpServer server("127.0.0.1", 0);
  server.start();
  EXPECT_EQ(http_get(server.port(), "/healthz").body, "ok");
  const double before = cpu_seconds();
  std::this_thread::sleep_for(std::chrono::milliseconds(500));
  const double used = cpu_seconds() - before;
  RecordProperty("idle_cpu_seconds_of_half_a_second", std::to_string(used));
  EXPECT_LT(used, 0.01);
}

}  // namespace
}  // namespace moe
