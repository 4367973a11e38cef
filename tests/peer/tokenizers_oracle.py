#!/usr/bin/env python3
"""Ids, byte offsets and decoded text by the HF library `tokenizers`, for fuzzed strings, real text and every id.

    python3 tests/peer/tokenizers_oracle.py TOKENIZER.json OUT --strings 200000 --text-bytes 10000000 [--text FILE.jsonl...]

Every string is encoded with special tokens parsed; those of special-token fragments (one in five) also as text. One in ten
encodings is decoded, with and without special tokens, and so are random ids. Every id is decoded, and its text is one more string.
"""
import argparse
import os
import random
from itertools import chain

os.environ["TOKENIZERS_PARALLELISM"] = "false"

from tokenizers import Tokenizer  # noqa: E402

from fuzzed_text import GENERATORS, fuzzed, real_text  # noqa: E402
from oracle_file import OracleFile  # noqa: E402

BATCH = 2000


def write_encodings(out, tokenizer, kind, texts):
    tokenizer.encode_special_tokens = kind == b"T"
    for begin in range(0, len(texts), BATCH):
        part = texts[begin:begin + BATCH]
        for i, (text, encoding) in enumerate(zip(part, tokenizer.encode_batch(part, add_special_tokens=False))):
            ids = encoding.ids
            out.encoding(kind, text, ids, list(chain.from_iterable(encoding.offsets)))
            if kind == b"P" and i % 10 == 0:
                write_decodings(out, tokenizer, ids)


def write_decodings(out, tokenizer, ids):
    out.decoding(b"D", ids, tokenizer.decode(ids, skip_special_tokens=False))
    out.decoding(b"S", ids, tokenizer.decode(ids, skip_special_tokens=True))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tokenizer")
    parser.add_argument("out")
    parser.add_argument("--strings", type=int, default=200000)
    parser.add_argument("--text-bytes", type=int, default=10000000)
    parser.add_argument("--text", nargs="*", default=[])
    parser.add_argument("--no-ids", action="store_true", help="leave the text of every id out")
    parser.add_argument("--seed", type=int, default=20261124)
    arguments = parser.parse_args()
    tokenizer = Tokenizer.from_file(arguments.tokenizer)
    ids = sorted(tokenizer.get_vocab(with_added_tokens=True).values())
    rng = random.Random(arguments.seed)
    strings = fuzzed(rng, arguments.strings)
    with OracleFile(arguments.out) as out:
        singles = []
        for token in [] if arguments.no_ids else ids:
            singles.append(tokenizer.decode([token], skip_special_tokens=False))
            out.decoding(b"D", [token], singles[-1])
        for _ in range(arguments.strings // 40):
            write_decodings(out, tokenizer, [rng.choice(ids) for _ in range(rng.randint(0, 8))])
        write_encodings(out, tokenizer, b"P", strings + singles + real_text(arguments.text, arguments.text_bytes))
        write_encodings(out, tokenizer, b"T", strings[len(GENERATORS) - 1::len(GENERATORS)])


if __name__ == "__main__":
    main()
