#pragma once

#include <sqlite3.h>

#include <cstdint>
#include <string>
#include <string_view>

namespace moe {

/// A prepared statement of SQLite, bound and stepped. Errors are StorageError with SQLite's words. Used by one thread.
class Statement {
 public:
  Statement(sqlite3* database, const char* sql);
  ~Statement();
  Statement(const Statement&) = delete;
  Statement& operator=(const Statement&) = delete;

  Statement& text(int index, std::string_view value);
  Statement& blob(int index, std::string_view value);
  Statement& integer(int index, int64_t value);
  /// True if there is a row.
  bool step();
  /// Steps to the end and makes ready for other values.
  void run();

  int64_t integer_at(int column) const { return sqlite3_column_int64(statement_, column); }
  std::string bytes_at(int column) const;

 private:
  sqlite3* database_;
  sqlite3_stmt* statement_ = nullptr;
};

/// Runs SQL without parameters. Throws StorageError.
void execute(sqlite3* database, const char* sql);

[[noreturn]] void throw_sqlite_error(sqlite3* database, std::string_view what);

}  // namespace moe
