#pragma once

#include <map>
#include <string>

/// A blocking HTTP client on a bare socket, sharing no code with the server under test.
namespace moe::testing {

struct HttpReply {
  int status = 0;
  std::map<std::string, std::string> headers;  ///< names in lower case
  std::string body;
};

/// Sends one request to 127.0.0.1 and reads until the server closes. Throws if it does not answer within 10 s.
HttpReply http_request(int port, const std::string& method, const std::string& target,
                       const std::string& extra_headers = "");
inline HttpReply http_get(int port, const std::string& target) {
  return http_request(port, "GET", target);
}

/// A TCP connection to 127.0.0.1:port that says nothing; close() it. -1 if refused.
int open_connection(int port);

}  // namespace moe::testing
