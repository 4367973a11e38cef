#!/usr/bin/env python3
"""Ids, byte offsets and decoded text by PyPI sentencepiece, for fuzzed strings and real text, and what random ids decode to: one
JSON object a line.

    python3 tests/peer/sentencepiece_oracle.py MODEL OUT.jsonl --strings 20000 --text-bytes 2000000 [--text FILE.jsonl...]
"""
import argparse
import json
import random

import sentencepiece


def fuzzed(rng, count):
    """Five kinds of strings: code-like ASCII, whitespace runs, many languages, random code points, fragments of special tokens."""
    words = ["the", "Once", "def", "return", "x1", "{", "}", "==", "->", "#include", "foo_bar", "3.14", "I'm", "don't"]
    languages = ["été", "Straße", "привет", "мир", "你好", "世界", "こんにちは", "한국어", "עברית", "العربية", "हिन्दी", "🦙🎉", "ﬁ", "Å", "e\u0301"]
    specials = ["<s>", "</s>", "<unk>", "<0x0A>", "<0xFF>", "\u2581", "\u2581\u2581", "<", ">", "s>", "<pad>"]
    whitespace = ["\x00", "\x0b", "\x7f", "\x85", "\u2028", " ", "  ", "   ", "\t", "\n", "\r\n", "\u00a0", "\u3000", "\u200b", " \n "]
    kinds = [
        lambda: "".join(rng.choice(words + [" ", "  ", "\n", "\t"]) for _ in range(rng.randint(0, 20))),
        lambda: "".join(rng.choice(whitespace + ["a", "b"]) for _ in range(rng.randint(0, 16))),
        lambda: "".join(rng.choice(languages + words + [" "]) for _ in range(rng.randint(0, 12))),
        lambda: "".join(chr(c) for c in (rng.choice([rng.randint(0x20, 0x7E), rng.randint(0xA0, 0x2FFF), rng.randint(0x3000, 0xD7FF),
                                                     rng.randint(0xE000, 0xFFFD), rng.randint(0x10000, 0x10FFFF)])
                                         for _ in range(rng.randint(0, 24)))),
        lambda: "".join(rng.choice(specials + words + [" "]) for _ in range(rng.randint(0, 14))),
    ]
    return [kinds[i % len(kinds)]() for i in range(count)]


def real_text(files, limit):
    """An equal share of each file."""
    texts = []
    for name in files:
        size = 0
        with open(name, encoding="utf-8") as lines:
            for line in lines:
                if size >= limit / len(files):
                    break
                record = json.loads(line)
                texts.append(record["text"] if "text" in record else "\n\n".join(m["content"] for m in record["messages"]))
                size += len(texts[-1].encode())
    return texts


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("out")
    parser.add_argument("--strings", type=int, default=20000)
    parser.add_argument("--text-bytes", type=int, default=2000000)
    parser.add_argument("--text", nargs="*", default=[])
    parser.add_argument("--seed", type=int, default=20261124)
    arguments = parser.parse_args()
    oracle = sentencepiece.SentencePieceProcessor(model_file=arguments.model)
    rng = random.Random(arguments.seed)
    strings = fuzzed(rng, arguments.strings) + real_text(arguments.text, arguments.text_bytes)
    with open(arguments.out, "w", encoding="utf-8") as out:
        for text in strings:
            pieces = oracle.encode(text, return_type="proto").pieces
            ids = [piece.id for piece in pieces]
            random_ids = [rng.randrange(oracle.vocab_size()) for _ in range(rng.randint(0, 6))]
            out.write(json.dumps({"text": text, "ids": ids, "begin": [p.begin for p in pieces], "end": [p.end for p in pieces],
                                  "decoded": oracle.decode(ids), "random_ids": random_ids,
                                  "random_decoded": oracle.decode(random_ids)}) + "\n")


if __name__ == "__main__":
    main()
