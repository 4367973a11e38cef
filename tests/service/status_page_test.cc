// The live pages of a coordinator that has finished one pipeline and runs another, over HTTP and in a real browser.
// Screenshots stay in the build folder.

#include <gtest/gtest.h>

#include <iostream>
#include <regex>

#include "service/web.h"
#include "testing/paths.h"

namespace moe {
namespace {

using nlohmann::json;
using std::chrono::seconds;
using testing::Cluster;
using testing::eventually;

constexpr int kRanks = 2;

std::string console_of(const std::string& log) {
  static const std::regex kConsole("[^\n]*CONSOLE[^\n]*");
  std::string lines;
  for (std::sregex_iterator found(log.begin(), log.end(), kConsole), end; found != end; ++found)
    lines += found->str() + "\n";
  return lines;
}

/// Headless Chromium on an address. Fails the test if the page writes to the console.
testing::ProcessResult browse(const Cluster& cluster, const std::vector<std::string>& arguments) {
  std::vector<std::string> command{"timeout",
                                   "60",
                                   "chromium",
                                   "--headless=new",
                                   "--no-sandbox",
                                   "--disable-gpu",
                                   "--enable-logging=stderr",
                                   "--hide-scrollbars",
                                   "--user-data-dir=" + (cluster.folder() / "chromium").string()};
  command.insert(command.end(), arguments.begin(), arguments.end());
  command.push_back(cluster.http() + "/");
  const testing::ProcessResult result = testing::run_process(command);
  EXPECT_EQ(result.exit_code, 0) << result.err;
  EXPECT_EQ(console_of(result.err), "") << "the page writes to the console";
  return result;
}

/// The article of a pipeline: from its id to the end of the card.
std::string card_of(const std::string& page, const std::string& pipeline) {
  const size_t at = page.find(pipeline);
  if (at == std::string::npos) return "";
  const size_t begin = page.rfind("<article", at), end = page.find("</article>", at);
  return page.substr(begin, end - begin);
}

/// The step at which the page shows a job; -1: it does not.
int64_t shown_step(const std::string& page, int steps) {
  std::smatch found;
  return std::regex_search(page, found, std::regex("step (\\d+) of " + std::to_string(steps))) ? std::stoll(found[1])
                                                                                               : -1;
}

TEST(StatusPageTest, ARunningAndAFinishedPipelineInABrowser) {
  if (!testing::is_installed("chromium"))
    GTEST_SKIP() << "chromium is not installed (bash deploy/install_deps.sh --peers)";
  constexpr int kSteps = 2000;
  Cluster cluster;
  const auto gang = cluster.start_gang(kRanks, "a");
  const std::string finished = cluster.submit(testing::small_pipeline("finished", 5, kRanks, 11, /*evaluates=*/true));
  const std::string running = cluster.submit(testing::small_pipeline("running", kSteps, kRanks));
  ASSERT_EQ(cluster.wait_for(finished, 60), "SUCCEEDED") << gang->output();
  ASSERT_TRUE(testing::reaches_step(cluster, running + "-train", 3, seconds(60))) << gang->output();

  const std::filesystem::path screenshots = testing::build_dir() + "/screenshots";
  std::filesystem::create_directories(screenshots);
  for (const int width : {500, 1200}) {
    const std::filesystem::path image = screenshots / ("live_status_" + std::to_string(width) + ".png");
    std::filesystem::remove(image);
    browse(cluster, {"--screenshot=" + image.string(), "--window-size=" + std::to_string(width) + ",2200"});
    ASSERT_TRUE(std::filesystem::exists(image));
    EXPECT_GT(std::filesystem::file_size(image), 20'000U) << image;
  }
  const std::string page = browse(cluster, {"--dump-dom"}).out;
  EXPECT_NE(card_of(page, finished).find(">SUCCEEDED<"), std::string::npos) << page;
  EXPECT_NE(card_of(page, finished).find("gate: PASSED"), std::string::npos) << page;
  EXPECT_NE(card_of(page, running).find(">RUNNING<"), std::string::npos) << page;
  const int64_t step = shown_step(page, kSteps);
  EXPECT_GE(step, 3) << page;
  EXPECT_NE(page.find("<svg"), std::string::npos) << "a loss curve";
  // The page is the present, not the past.
  ASSERT_TRUE(eventually(seconds(30), [&] {
    return shown_step(testing::fetch(cluster.http(), "/").body, kSteps) > step;
  })) << gang->output();
  std::cout << "step " << step << " of " << kSteps << " on a page of " << page.size() << " bytes\n";
}

TEST(StatusPageTest, HealthAndDiscoveryOverHttp) {
  Cluster cluster;
  EXPECT_EQ(testing::fetch(cluster.http(), "/healthz").body, "ok");
  EXPECT_EQ(testing::fetch(cluster.http(), "/readyz").body, "ready");
  const httplib::Response empty = testing::fetch(cluster.http(), "/sd/workers");
  EXPECT_EQ(empty.body, "[]");
  EXPECT_EQ(empty.get_header_value("Content-Type"), "application/json");
  const httplib::Response unknown = testing::fetch(cluster.http(), "/nothing");
  EXPECT_EQ(unknown.status, 404);
  EXPECT_NE(unknown.body.find("/sd/workers"), std::string::npos) << unknown.body;

  const auto gang = cluster.start_gang(kRanks, "a");
  ASSERT_TRUE(eventually(seconds(20), [&] { return testing::discovered_ranks(cluster).size() == kRanks; }))
      << gang->output();
  const std::string gang_id = cluster.moectl_json({"get", "gangs"})["gangs"][0]["id"];
  const json ranks = testing::discovered_ranks(cluster);
  for (int rank = 0; rank < kRanks; ++rank) {
    const json& labels = ranks[rank]["labels"];
    EXPECT_EQ(labels["rank"], "000" + std::to_string(rank));
    EXPECT_EQ(labels["gang_id"], gang_id);
    EXPECT_FALSE(labels["node"].get<std::string>().empty());
    const httplib::Response metrics =
        testing::fetch("http://" + ranks[rank]["targets"][0].get<std::string>(), "/metrics");
    EXPECT_EQ(metrics.status, 200);
    EXPECT_NE(metrics.body.find("moe_worker_info"), std::string::npos) << metrics.body;
  }
}

}  // namespace
}  // namespace moe
