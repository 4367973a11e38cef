#!/usr/bin/env python3
"""Writes src/data/tokenizer/unicode_tables.cc: the code points that the HF `tokenizers` library takes for letters, numbers and
white space.

    PEERS=${MOE_DEPS:-$HOME/.cache/moe-deps}/peers/bin/python
    $PEERS tools/make_unicode_tables.py > src/data/tokenizer/unicode_tables.cc

The library's tables (Unicode 16) are newer than those of the distribution's ICU and PCRE2, and its tokenizer files depend on them, so
they are read out of the library: each class is asked for over all code points, through the very part of it that uses the class.
"""
import hashlib

import tokenizers
from tokenizers import AddedToken, Regex, models, pre_tokenizers

ALL = [chr(c) for c in range(0x110000) if not 0xD800 <= c <= 0xDFFF]


def by_pattern(pattern):
    """What a Split pre-tokenizer's regular expression matches (Oniguruma)."""
    split = pre_tokenizers.Split(Regex(pattern), "removed", invert=True)
    return [ord(c) for piece, _ in split.pre_tokenize_str("".join(ALL)) for c in piece]


def by_digits():
    """What the Digits pre-tokenizer cuts out (Rust's char::is_numeric)."""
    digits = pre_tokenizers.Digits(individual_digits=True)
    pieces = digits.pre_tokenize_str("".join("a" + c for c in ALL if c != "a"))
    # A digit stands alone between letters; anything else stays in a longer piece.
    return [ord(piece) for piece, _ in pieces if len(piece) == 1 and piece != "a"]


def by_single_word():
    """What keeps a single_word added token from matching (Rust's regex `\\w`)."""
    tokenizer = tokenizers.Tokenizer(models.BPE({"<unk>": 0}, [], unk_token="<unk>"))
    tokenizer.add_tokens([AddedToken("\U000F0000", single_word=True, normalized=False)])
    marker = tokenizer.token_to_id("\U000F0000")
    encodings = tokenizer.encode_batch([c + "\U000F0000" for c in ALL if c != "\U000F0000"], add_special_tokens=False)
    return [ord(c) for c, e in zip((c for c in ALL if c != "\U000F0000"), encodings) if marker not in e.ids]


def ranges_of(code_points):
    ranges = []
    for code_point in sorted(code_points):
        if ranges and ranges[-1][1] + 1 == code_point:
            ranges[-1][1] = code_point
        else:
            ranges.append([code_point, code_point])
    return ranges


def print_table(name, what, code_points):
    ranges = ranges_of(code_points)
    text = ",".join(f"{low:x}-{high:x}" for low, high in ranges)
    print(f"// {what}: {len(code_points)} code points in {len(ranges)} ranges, SHA-256 {hashlib.sha256(text.encode()).hexdigest()}")
    print(f"constexpr CodePointRange {name}[] = {{")
    for i in range(0, len(ranges), 6):
        print("    " + " ".join(f"{{0x{low:X}, 0x{high:X}}}," for low, high in ranges[i:i + 6]))
    print("};\n")


def main():
    print(f"// Written by tools/make_unicode_tables.py from tokenizers {tokenizers.__version__}.\n// clang-format off")
    print('#include "data/tokenizer/unicode_tables.h"\n\nnamespace moe {\nnamespace {\n')
    print_table("kLetters", "\\p{L}", by_pattern(r"\p{L}"))
    print_table("kNumbers", "\\p{N}", by_pattern(r"\p{N}"))
    print_table("kSpaces", "\\s", by_pattern(r"\s"))
    print_table("kDigits", "char::is_numeric", by_digits())
    print_table("kWord", "\\w", by_single_word())
    print("}  // namespace\n")
    for name, table in (("letters", "kLetters"), ("numbers", "kNumbers"), ("spaces", "kSpaces"), ("digits", "kDigits"),
                        ("word_characters", "kWord")):
        print(f"std::span<const CodePointRange> unicode_{name}() {{ return {table}; }}")
    print("\n}  // namespace moe")


if __name__ == "__main__":
    main()
