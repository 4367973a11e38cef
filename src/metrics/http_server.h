#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>

/// The HTTP endpoint of a program: pages that answer GET, drawn at the time of the request. Coordinator and worker
/// ranks each own one. Binds in the constructor, so that a taken port is an error at start; answers from start() until
/// it is destroyed, on one thread that accepts and two that call the handlers. All of them sleep while nobody asks.
/// Handlers run on those two threads, also at the same time as each other: they must be safe for that, and outlive the
/// server.
namespace moe {

struct HttpRequest {
  std::string path;
  std::map<std::string, std::string> query;  ///< decoded; of a repeated parameter the first
};

struct HttpResponse {
  int status = 200;
  std::string content_type = "text/plain; charset=utf-8";
  std::string body;
};

class HttpServer {
 public:
  using Handler = std::function<HttpResponse(const HttpRequest&)>;

  /// port 0 takes a free one. Throws UsageError with the system's reason if nobody can listen there.
  HttpServer(std::string address, int port);
  HttpServer(const HttpServer&) = delete;
  HttpServer& operator=(const HttpServer&) = delete;
  /// Stops listening and waits for requests that are being answered.
  ~HttpServer();

  int port() const;

  /// The page at exactly this path. An exception of the handler is logged and answered with 500. Before start() only.
  void get(std::string path, Handler handler);

  /// What /readyz asks: 200 "ready" or 503 "not ready"; ready as soon as it runs unless told otherwise. Before start()
  /// only.
  void ready_when(std::function<bool()> ready);

  /// From here on requests are answered; /healthz always with 200 "ok".
  void start();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace moe
