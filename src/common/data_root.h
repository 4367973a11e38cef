#pragma once

#include <filesystem>
#include <optional>
#include <string>

/// What tells one data root from another: a file in it with an id, made by its first coordinator. Whoever is given a
/// --data-root reads the file there, so that an empty mount point or another folder is never taken for the storage that
/// is meant.
namespace moe {

/// <root>/.moe-root-id
std::filesystem::path root_id_file(const std::filesystem::path& root);

/// nullopt: there is no such file. Throws StorageError if that cannot be told (the folder may not be searched, the
/// storage does not answer), InvalidArgument if it holds no id.
std::optional<std::string> read_root_id(const std::filesystem::path& root);

/// Makes a new id and writes it; never in the place of another, so that all who do this at once get the id of the
/// first. Throws StorageError.
std::string create_root_id(const std::filesystem::path& root);

/// Random digits, two a byte: for what must not be guessed or met twice.
std::string random_hex(int bytes);

}  // namespace moe
