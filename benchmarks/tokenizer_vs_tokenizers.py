#!/usr/bin/env python3
"""Encoding speed of our tokenizer against the HF library `tokenizers`, interleaved in one run.

    PEERS=${MOE_DEPS:-$HOME/.cache/moe-deps}/peers/bin/python
    $PEERS benchmarks/tokenizer_vs_tokenizers.py --ours build/release/bin/moe_tokenizer_bench [--rounds 7] [--smollm2 DIRECTORY]

Both sides encode the same documents, ids and offsets, with special tokens parsed and none added. The peer's encode_batch has one
thread (TOKENIZERS_PARALLELISM=false); it is timed without turning its result into Python lists, ours with the vectors filled. Ids
and offsets are compared first. Tokenizers: those of the families with 16,000 tokens, trained here, and SmolLM2's own where it is
given. Our program stays alive between rounds, and the two never compute at the same time. "2 threads over 1" compares the best rounds: other
programs on the machine disturb the rest; the CPU time of the same work tells whether threads hinder each other. Also timed: reading a LLaMA-3-sized file.
"""
import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from array import array
from pathlib import Path

os.environ["TOKENIZERS_PARALLELISM"] = "false"
ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests/peer"))

import make_tokenizers  # noqa: E402
from fuzzed_text import multilingual, real_text  # noqa: E402
from oracle_file import byte_offsets  # noqa: E402
from tokenizers import Tokenizer, __version__  # noqa: E402


class Ours:
    def __init__(self, program):
        self.process = subprocess.Popen([program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self, **request):
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            sys.exit("tokenizer_vs_tokenizers: our program ended; run it by hand to see why")
        return json.loads(line)


def corpora(size):
    data = ROOT / "examples/data"
    english = real_text([data / "books.train.jsonl", data / "general.train.jsonl"], size)
    rng = random.Random(7)
    languages = ["".join(multilingual(rng) + " " for _ in range(60)) for _ in range(size // 4500)]
    mixed = real_text([data / "code.train.jsonl", data / "maths.train.jsonl"], size // 2) + english[:len(english) // 4] + languages
    return {"English": english, "mixed": mixed}


def write_documents(path, documents):
    with open(path, "wb") as out:
        for text in documents:
            data = text.encode()
            out.write(array("I", [len(data)]).tobytes() + data)


def checksum(documents, encodings):
    """Sum of ids and of the offsets of the tokens' ends, in bytes."""
    total = 0
    for text, encoding in zip(documents, encodings):
        positions = byte_offsets(text)
        total += sum(encoding.ids) + sum(end if positions is None else positions[end] for _, end in encoding.offsets)
    return total


def compare(name, corpus, tokenizer, documents, ours, rounds):
    encodings = tokenizer.encode_batch(documents, add_special_tokens=False)
    mine = ours.ask(threads=1)
    if mine["checksum"] != checksum(documents, encodings):
        sys.exit(f"{name}, {corpus}: ids or offsets differ")
    ours.ask(threads=2)
    megabytes = sum(len(text.encode()) for text in documents) / 1e6
    times = {"peer": [], "peer_cpu": [], "one": [], "one_cpu": [], "two": [], "two_cpu": []}
    for _ in range(rounds):
        start, cpu = time.perf_counter(), time.process_time()
        encodings = tokenizer.encode_batch(documents, add_special_tokens=False)
        times["peer"].append(time.perf_counter() - start)
        times["peer_cpu"].append(time.process_time() - cpu)
        one = ours.ask(threads=1)
        times["one"].append(one["seconds"])
        times["one_cpu"].append(one["cpu_seconds"])
        two = ours.ask(threads=2)
        times["two"].append(two["seconds"])
        times["two_cpu"].append(two["cpu_seconds"])
    median = {key: statistics.median(values) for key, values in times.items()}
    ratios = sorted(peer / one for peer, one in zip(times["peer"], times["one"]))
    print(f"| {name} | {corpus} | {megabytes / median['one']:.1f} | {megabytes / median['peer']:.1f} | {statistics.median(ratios):.1f} "
          f"({ratios[0]:.1f} .. {ratios[-1]:.1f}) | {median['peer_cpu'] / median['one_cpu']:.1f} | "
          f"{min(times['one']) / min(times['two']):.2f} | {median['one_cpu'] / median['two_cpu']:.2f} |", flush=True)


def llama3_sized(path):
    """128,000 tokens and 280,000 merges: pairs of random tokens whose result is one."""
    rng = random.Random(5)
    base = json.loads(make_tokenizers.llama3(400).to_str())
    vocab, merges = base["model"]["vocab"], []
    tokens = list(vocab)
    while len(tokens) < 128000:
        left, right = rng.choice(tokens), rng.choice(tokens)
        if len(left + right) <= 12 and left + right not in vocab:
            vocab[left + right] = len(tokens)
            tokens.append(left + right)
            merges.append([left, right])
    pairs = {tuple(pair) for pair in merges}
    for token in tokens:
        for i in range(1, len(token)):
            if len(merges) < 280000 and token[:i] in vocab and token[i:] in vocab and (token[:i], token[i:]) not in pairs:
                merges.append([token[:i], token[i:]])
    base["model"]["merges"], base["added_tokens"], base["post_processor"] = merges, [], None
    (path / "tokenizer.json").write_text(json.dumps(base, ensure_ascii=False, indent=1), encoding="utf-8")
    return (path / "tokenizer.json").stat().st_size / 1e6


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ours", required=True, help="path of moe_tokenizer_bench")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--bytes", type=int, default=4000000, help="of each corpus")
    parser.add_argument("--smollm2", type=Path, help="directory of SmolLM2's own tokenizer.json")
    arguments = parser.parse_args()
    ours = Ours(arguments.ours)
    print(f"# tokenizers {__version__}, one thread; ids and offsets on both sides; {arguments.rounds} rounds, medians")
    print("| tokenizer | corpus | ours, MB/s | tokenizers, MB/s | ratio (min .. max) | by CPU time | 2 threads over 1 | CPU time of 1 thread "
          "over 2 |")
    print("|---|---|---:|---:|---:|---:|---:|---:|")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        directories = {}
        for family in ("llama3", "qwen2", "phi2", "smollm2", "llama2"):
            directories[family] = folder / family
            directories[family].mkdir()
            (directories[family] / "tokenizer.json").write_text(make_tokenizers.FAMILIES[family](16000).to_str(), encoding="utf-8")
        if arguments.smollm2:
            directories["SmolLM2's own"] = arguments.smollm2
        for corpus, documents in corpora(arguments.bytes).items():
            write_documents(folder / "documents", documents)
            for family, directory in directories.items():
                ours.ask(tokenizer=str(directory), documents=str(folder / "documents"))
                compare(family, corpus, Tokenizer.from_file(str(directory / "tokenizer.json")), documents, ours, arguments.rounds)
        (folder / "large").mkdir()
        (folder / "documents").write_bytes(b"")
        megabytes = llama3_sized(folder / "large")
        loads, peers = [], []
        for _ in range(5):
            loads.append(ours.ask(tokenizer=str(folder / "large"), documents=str(folder / "documents")))
            start, cpu = time.perf_counter(), time.process_time()
            Tokenizer.from_file(str(folder / "large/tokenizer.json"))
            peers.append({"seconds": time.perf_counter() - start, "cpu_seconds": time.process_time() - cpu})
        mine, theirs = ({key: statistics.median(load[key] for load in all) for key in ("seconds", "cpu_seconds")} for all in (loads, peers))
        print(f"\nReading a tokenizer.json of {megabytes:.1f} MB (128,000 tokens, 280,000 merges): {mine['seconds']:.2f} s "
              f"({mine['cpu_seconds']:.2f} s of CPU), tokenizers {theirs['seconds']:.2f} s ({theirs['cpu_seconds']:.2f} s)")


if __name__ == "__main__":
    main()
