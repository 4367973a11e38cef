#!/usr/bin/env python3
"""Ids, byte offsets and decoded text by PyPI sentencepiece, for fuzzed strings and real text, and what random ids decode to.

    python3 tests/peer/sentencepiece_oracle.py MODEL OUT --strings 200000 --text-bytes 10000000 [--text FILE.jsonl...]
"""
import argparse
import random

import sentencepiece

from fuzzed_text import fuzzed, real_text
from oracle_file import OracleFile


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("out")
    parser.add_argument("--strings", type=int, default=200000)
    parser.add_argument("--text-bytes", type=int, default=10000000)
    parser.add_argument("--text", nargs="*", default=[])
    parser.add_argument("--seed", type=int, default=20261124)
    arguments = parser.parse_args()
    oracle = sentencepiece.SentencePieceProcessor(model_file=arguments.model)
    rng = random.Random(arguments.seed)
    strings = fuzzed(rng, arguments.strings) + real_text(arguments.text, arguments.text_bytes)
    with OracleFile(arguments.out) as out:
        for token in range(oracle.vocab_size()):
            out.decoding(b"D", [token], oracle.decode([token]))
        for i, text in enumerate(strings):
            pieces = oracle.encode(text, return_type="proto").pieces
            ids = [piece.id for piece in pieces]
            out.encoding(b"T", text, ids, [offset for piece in pieces for offset in (piece.begin, piece.end)], in_bytes=True)
            if i % 5 == 0:
                out.decoding(b"D", ids, oracle.decode(ids))
                random_ids = [rng.randrange(oracle.vocab_size()) for _ in range(rng.randint(0, 6))]
                out.decoding(b"D", random_ids, oracle.decode(random_ids))


if __name__ == "__main__":
    main()
