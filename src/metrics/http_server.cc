#include "metrics/http_server.h"

#include <httplib.h>
#include <netdb.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <cctype>
#include <cerrno>
#include <system_error>
#include <thread>
#include <utility>

#include "common/error.h"
#include "common/log.h"

namespace moe {
namespace {

constexpr int kHandlerThreads = 2;
constexpr int kMaxPort = 65535;
// A connection serves one request and closes: with two threads, a browser that keeps one open would lock others out,
// and httplib 0.11 polls kept ones a thousand times a second. The waits bound what a silent client can hold a thread
// for.
constexpr int kRequestsPerConnection = 1;
constexpr int kFirstByteSeconds = 1;
constexpr int kReadSeconds = 2;
constexpr int kWriteSeconds = 5;

std::string endpoint(const std::string& address, int port) {
  const bool is_ipv6 = address.find(':') != std::string::npos;
  return concat(is_ipv6 ? "[" : "", address, is_ipv6 ? "]" : "", ":", port);
}

/// Why binding failed and what to do, from what the system said.
std::string reason(const std::string& address, int port, int error) {
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  if (const int status = getaddrinfo(address.c_str(), nullptr, &hints, &found); status != 0) {
    return concat("the address is unknown (", gai_strerror(status),
                  "); give an IP address of this machine, such as 127.0.0.1");
  }
  freeaddrinfo(found);
  std::string text = std::generic_category().message(error);
  if (!text.empty()) text[0] = static_cast<char>(std::tolower(static_cast<unsigned char>(text[0])));
  switch (error) {
    case EADDRINUSE: return text + "; stop the program that has it, choose another port, or 0 for any free one";
    case EADDRNOTAVAIL: return text + "; this machine has no such address, try 127.0.0.1";
    case EACCES:
      return concat(text, "; port ", port, " is reserved for root, choose one from 1024 on, or 0 for any free one");
    default: return text;
  }
}

/// httplib sets SO_REUSEPORT by default, with which two servers share a port and each sees half of the requests.
void only_reuse_address(int socket) {
  const int on = 1;
  setsockopt(socket, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
}

/// httplib::Server closes its socket in stop(), but only while it runs.
class Server : public httplib::Server {
 public:
  void close_unstarted() {
    if (const int socket = svr_sock_.exchange(INVALID_SOCKET); socket != INVALID_SOCKET) close(socket);
  }
};

}  // namespace

struct HttpServer::Impl {
  HttpResponse answer(const std::string& method, const HttpRequest& request) const;
  HttpResponse not_found(const std::string& path) const;

  int port = 0;
  std::map<std::string, Handler> pages;
  std::function<bool()> is_ready = [] { return true; };
  Server server;
  std::thread thread;
  std::atomic<bool> has_ended = false;
};

HttpResponse HttpServer::Impl::answer(const std::string& method, const HttpRequest& request) const {
  if (method != "GET" && method != "HEAD")
    return {405, "text/plain; charset=utf-8", "405: this server answers GET only\n"};
  const auto page = pages.find(request.path);
  if (page == pages.end()) return not_found(request.path);
  try {
    return page->second(request);
  } catch (const std::exception& error) {
    log_error(concat("event=http_page_failed path=", request.path, " error=\"", error.what(), "\""));
    return {500, "text/plain; charset=utf-8", concat("500: this page cannot be drawn: ", message_of(error), "\n")};
  }
}

HttpResponse HttpServer::Impl::not_found(const std::string& path) const {
  std::string text = "404: there is no " + excerpt(path) + "; there are:";
  for (const auto& [known, handler] : pages) text += " " + known;
  return {404, "text/plain; charset=utf-8", text + "\n"};
}

HttpServer::HttpServer(std::string address, int port) : impl_(std::make_unique<Impl>()) {
  if (port < 0 || port > kMaxPort) {
    throw UsageError(
        concat("cannot listen on ", endpoint(address, port), ": a port is 0 (any free one) to ", kMaxPort));
  }
  Server& server = impl_->server;
  server.set_socket_options(only_reuse_address);
  server.set_keep_alive_max_count(kRequestsPerConnection);
  server.set_keep_alive_timeout(kFirstByteSeconds);
  server.set_read_timeout(kReadSeconds);
  server.set_write_timeout(kWriteSeconds);
  server.set_default_headers({{"Cache-Control", "no-store"}});
  // httplib takes ownership of what this returns.
  server.new_task_queue = [] { return std::make_unique<httplib::ThreadPool>(kHandlerThreads).release(); };
  errno = 0;
  const bool is_bound =
      port == 0 ? (impl_->port = server.bind_to_any_port(address)) > 0 : server.bind_to_port(address, port);
  const int error = errno;
  if (!is_bound) {
    throw UsageError(concat("cannot listen on ", endpoint(address, port), ": ", reason(address, port, error)));
  }
  if (port != 0) impl_->port = port;
  get("/healthz", [](const HttpRequest&) { return HttpResponse{.body = "ok"}; });
  get("/readyz", [impl = impl_.get()](const HttpRequest&) {
    return impl->is_ready() ? HttpResponse{.body = "ready"} : HttpResponse{.status = 503, .body = "not ready"};
  });
}

HttpServer::~HttpServer() {
  if (!impl_->thread.joinable()) {
    impl_->server.close_unstarted();
    return;
  }
  impl_->server.stop();
  impl_->thread.join();
}

int HttpServer::port() const {
  return impl_->port;
}

void HttpServer::get(std::string path, Handler handler) {
  MOE_CHECK(!impl_->thread.joinable(), "page ", path, " is added after start()");
  impl_->pages[std::move(path)] = std::move(handler);
}

void HttpServer::ready_when(std::function<bool()> ready) {
  MOE_CHECK(!impl_->thread.joinable(), "ready_when() after start()");
  impl_->is_ready = std::move(ready);
}

void HttpServer::start() {
  MOE_CHECK(!impl_->thread.joinable(), "HttpServer::start() was called twice");
  // Before httplib's own routing, which matches paths as regular expressions.
  impl_->server.set_pre_routing_handler(
      [impl = impl_.get()](const httplib::Request& request, httplib::Response& response) {
        HttpRequest wanted{request.path, {request.params.begin(), request.params.end()}};
        HttpResponse page = impl->answer(request.method, wanted);
        response.status = page.status;
        response.set_content(std::move(page.body), page.content_type);
        return httplib::Server::HandlerResponse::Handled;
      });
  impl_->thread = std::thread([impl = impl_.get()] {
    impl->server.listen_after_bind();
    impl->has_ended = true;
  });
  // stop() does nothing before httplib has entered its loop.
  while (!impl_->server.is_running() && !impl_->has_ended) std::this_thread::yield();
}

}  // namespace moe
