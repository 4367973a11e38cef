#include "metrics/http_client.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <sstream>
#include <stdexcept>

namespace moe::testing {
namespace {

HttpReply parse_reply(const std::string& text) {
  HttpReply reply;
  const size_t head_end = text.find("\r\n\r\n");
  if (head_end == std::string::npos) throw std::runtime_error("no HTTP reply: '" + text + "'");
  std::istringstream head(text.substr(0, head_end));
  std::string version;
  head >> version >> reply.status;
  std::string line;
  std::getline(head, line);
  while (std::getline(head, line)) {
    const size_t colon = line.find(": ");
    std::string name = line.substr(0, colon);
    std::transform(name.begin(), name.end(), name.begin(), [](unsigned char c) { return std::tolower(c); });
    std::string value = line.substr(colon + 2);
    if (!value.empty() && value.back() == '\r') value.pop_back();
    reply.headers[name] = value;
  }
  reply.body = text.substr(head_end + 4);
  return reply;
}

}  // namespace

int open_connection(int port) {
  const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<uint16_t>(port));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  const timeval patience{10, 0};
  setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
  if (connect(fd, reinterpret_cast<const sockaddr*>(&address), sizeof(address)) == 0) return fd;
  close(fd);
  return -1;
}

HttpReply http_request(int port, const std::string& method, const std::string& target,
                       const std::string& extra_headers) {
  const int fd = open_connection(port);
  if (fd < 0) throw std::runtime_error("port " + std::to_string(port) + " refuses connections");
  const std::string request = method + " " + target + " HTTP/1.1\r\nHost: localhost\r\n" + extra_headers + "\r\n";
  send(fd, request.data(), request.size(), MSG_NOSIGNAL);
  std::string text;
  char buffer[4096];
  ssize_t got = 0;
  while ((got = recv(fd, buffer, sizeof(buffer), 0)) > 0) text.append(buffer, static_cast<size_t>(got));
  close(fd);
  if (got < 0) throw std::runtime_error("no end of the reply to " + target + " within 10 s, after '" + text + "'");
  return parse_reply(text);
}

}  // namespace moe::testing
