#!/usr/bin/env python3
"""Ids, byte offsets and decoded text by the HF library `tokenizers`, for fuzzed strings, real text and every id.

    python3 tests/peer/tokenizers_oracle.py TOKENIZER.json OUT --strings 200000 --text-bytes 10000000 [--text FILE.jsonl...]

Every string is encoded with special tokens parsed; those of special-token fragments (one in five) also as text. One in ten
encodings is decoded, with and without special tokens, and so are random ids. Every id is decoded, and its text is one more string.
"""
import os
import random
from itertools import chain

os.environ["TOKENIZERS_PARALLELISM"] = "false"

from tokenizers import Tokenizer  # noqa: E402

from fuzzed_text import GENERATORS, fuzzed, real_text  # noqa: E402
from oracle_file import OracleFile, oracle_arguments  # noqa: E402

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
    arguments = oracle_arguments(__doc__)
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
