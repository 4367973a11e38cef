#!/usr/bin/env python3
"""Ids, byte offsets and decoded text by PyPI sentencepiece, for fuzzed strings and real text, and what random ids decode to.

    python3 tests/peer/sentencepiece_oracle.py MODEL OUT --strings 200000 --text-bytes 10000000 [--text FILE.jsonl...]
"""
import random

import sentencepiece

from fuzzed_text import fuzzed, real_text
from oracle_file import OracleFile, oracle_arguments


def main():
    arguments = oracle_arguments(__doc__)
    oracle = sentencepiece.SentencePieceProcessor(model_file=arguments.tokenizer)
    rng = random.Random(arguments.seed)
    strings = fuzzed(rng, arguments.strings) + real_text(arguments.text, arguments.text_bytes)
    with OracleFile(arguments.out) as out:
        for token in range(0 if arguments.no_ids else oracle.vocab_size()):
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
