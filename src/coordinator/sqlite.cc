#include "coordinator/sqlite.h"

#include "common/error.h"

namespace moe {

void throw_sqlite_error(sqlite3* database, std::string_view what) {
  throw StorageError(
      concat("SQLite: ", what, ": ", sqlite3_errmsg(database), " (code ", sqlite3_extended_errcode(database), ")"));
}

void execute(sqlite3* database, const char* sql) {
  if (sqlite3_exec(database, sql, nullptr, nullptr, nullptr) != SQLITE_OK) throw_sqlite_error(database, sql);
}

Statement::Statement(sqlite3* database, const char* sql) : database_(database) {
  if (sqlite3_prepare_v3(database, sql, -1, SQLITE_PREPARE_PERSISTENT, &statement_, nullptr) != SQLITE_OK)
    throw_sqlite_error(database, sql);
}

Statement::~Statement() {
  sqlite3_finalize(statement_);
}

Statement& Statement::text(int index, std::string_view value) {
  if (sqlite3_bind_text64(statement_, index, value.data(), value.size(), SQLITE_TRANSIENT, SQLITE_UTF8) != SQLITE_OK) {
    throw_sqlite_error(database_, "bind text");
  }
  return *this;
}

Statement& Statement::blob(int index, std::string_view value) {
  if (sqlite3_bind_blob64(statement_, index, value.data(), value.size(), SQLITE_TRANSIENT) != SQLITE_OK) {
    throw_sqlite_error(database_, "bind blob");
  }
  return *this;
}

Statement& Statement::integer(int index, int64_t value) {
  if (sqlite3_bind_int64(statement_, index, value) != SQLITE_OK) throw_sqlite_error(database_, "bind integer");
  return *this;
}

bool Statement::step() {
  const int status = sqlite3_step(statement_);
  if (status == SQLITE_ROW) return true;
  if (status == SQLITE_DONE) return false;
  throw_sqlite_error(database_, sqlite3_sql(statement_));
}

void Statement::run() {
  while (step()) {
  }
  sqlite3_reset(statement_);
}

std::string Statement::bytes_at(int column) const {
  const auto* data = static_cast<const char*>(sqlite3_column_blob(statement_, column));
  return data == nullptr ? "" : std::string(data, static_cast<size_t>(sqlite3_column_bytes(statement_, column)));
}

}  // namespace moe
