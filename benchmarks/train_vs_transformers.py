#!/usr/bin/env python3
"""Training speed of our MoE models against transformers' Mixtral class of the same shapes, interleaved in one run.

    PEERS=~/.cache/moe-deps/peers/bin/python
    $PEERS benchmarks/train_vs_transformers.py --ours build/release/bin/moe_train_bench [--threads 2] [--rounds 5]

Both sides: fp32, the same number of threads, AdamW, rows of random tokens (one sequence a row), other tokens and another length at
every step as packed data has (up to 63 tokens shorter than the case says), the whole step: forward, backward, clipping, update. Our program stays alive between rounds and runs a block of steps each time it is told to; the peer
runs its block in this process, so the two never compute at the same time and meet the same machine. transformers is timed with
every experts implementation that it offers on CPU, and its best one counts. Threads that wait sleep (OMP_WAIT_POLICY=PASSIVE, as
deploy/gang.sh sets it) on both sides: on a shared machine a spinning thread takes the core that the other one needs.
"""
import argparse
import json
import os
import statistics
import subprocess
import sys
import time

CASES = {
    # name: hidden, width of one expert, layers, heads, kv heads, experts, top-k, vocabulary, rows, row length
    "base-7m": dict(hidden=256, width=96, layers=6, heads=8, kv_heads=4, experts=8, top_k=2, vocab=4096, rows=8, length=512),
    "512x8": dict(hidden=512, width=192, layers=8, heads=8, kv_heads=4, experts=8, top_k=2, vocab=4096, rows=4, length=512),
}
LAYER_CASES = {
    "layer 256/96": dict(hidden=256, width=96, experts=8, top_k=2, tokens=4096),
    "layer 1024/448": dict(hidden=1024, width=448, experts=8, top_k=2, tokens=2048),
    "layer 2048/896": dict(hidden=2048, width=896, experts=8, top_k=2, tokens=512),
}
# batched_mm gathers every weight once per token: 20 times slower than the others here, so it is not timed.
IMPLEMENTATIONS = ["eager", "grouped_mm"]


def shorter_by(step):
    """As train_bench.cc has it."""
    return step * 37 % 64


class Ours:
    """Our benchmark program, driven line by line: a JSON case in, a JSON result out."""

    def __init__(self, program, threads):
        environment = dict(os.environ, OMP_NUM_THREADS=str(threads), MKL_NUM_THREADS=str(threads), MKL_DYNAMIC="FALSE")
        self.process = subprocess.Popen([program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)

    def block(self, kind, case, steps):
        self.process.stdin.write(json.dumps({"kind": kind, "steps": steps, **case}) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            sys.exit("train_vs_transformers: our program ended; run it by hand to see why")
        return json.loads(line)


def mixtral_config(case, implementation):
    from transformers import MixtralConfig
    config = MixtralConfig(vocab_size=case.get("vocab", 8), hidden_size=case["hidden"], intermediate_size=case["width"],
                           num_hidden_layers=case.get("layers", 1), num_attention_heads=case.get("heads", 4),
                           num_key_value_heads=case.get("kv_heads", 2), num_local_experts=case["experts"],
                           num_experts_per_tok=case["top_k"], max_position_embeddings=2048, output_router_logits=False,
                           use_cache=False)
    config._experts_implementation = implementation
    return config


class PeerModel:
    def __init__(self, case, implementation):
        import torch
        from transformers import MixtralForCausalLM
        torch.manual_seed(0)
        self.torch = torch
        self.model = MixtralForCausalLM._from_config(mixtral_config(case, implementation), dtype=torch.float32)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-4, fused=True)
        self.case, self.steps = case, 0

    def step(self):
        shape = (self.case["rows"], self.case["length"] - shorter_by(self.steps))
        self.steps += 1
        tokens = self.torch.randint(0, self.case["vocab"], shape)
        loss = self.model(input_ids=tokens, labels=tokens).loss
        loss.backward()
        self.torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)


class PeerLayer:
    def __init__(self, case, implementation):
        import torch
        from transformers.models.mixtral.modeling_mixtral import MixtralSparseMoeBlock
        torch.manual_seed(0)
        self.block = MixtralSparseMoeBlock(mixtral_config(case, implementation))
        for parameter in self.block.parameters():
            torch.nn.init.normal_(parameter, std=0.02)
        self.torch, self.case, self.steps = torch, case, 0

    def step(self):
        x = self.torch.randn(1, self.case["tokens"] - shorter_by(self.steps), self.case["hidden"], requires_grad=True)
        self.steps += 1
        out = self.block(x)
        out = out[0] if isinstance(out, tuple) else out
        out.sum().backward()
        self.block.zero_grad(set_to_none=True)


def seconds_per_step(peer, steps):
    """Wall and CPU time."""
    start, cpu_start = time.perf_counter(), time.process_time()
    for _ in range(steps):
        peer.step()
    return (time.perf_counter() - start) / steps, (time.process_time() - cpu_start) / steps


def compare(kind, name, case, ours, arguments):
    peers = {}
    for implementation in IMPLEMENTATIONS:
        try:
            peer = (PeerModel if kind == "model" else PeerLayer)(case, implementation)
            peer.step()
            peers[implementation] = peer
        except Exception as error:  # an implementation that this version or shape does not offer on CPU
            print(f"# {name}: transformers {implementation} not usable: {str(error).splitlines()[0][:90]}")
    steps = arguments.steps
    ours.block(kind, case, 1)
    mine, my_cpu, theirs, their_cpu, details, tokens = [], [], {key: [] for key in peers}, {key: [] for key in peers}, [], []
    for _ in range(arguments.rounds):
        result = ours.block(kind, case, steps)
        mine.append(result["seconds"] / steps)
        my_cpu.append(result["cpu_seconds"] / steps)
        details.append(result)
        tokens.append(result["tokens"] / steps)
        for key, peer in peers.items():
            wall, cpu = seconds_per_step(peer, steps)
            theirs[key].append(wall)
            their_cpu[key].append(cpu)
    detail = min(details, key=lambda result: result["seconds"])  # the round that other programs disturbed least
    best = min(theirs, key=lambda key: statistics.median(theirs[key]))
    tokens = statistics.mean(tokens)  # of both: the steps are the same
    ratios = sorted(t / m for t, m in zip(theirs[best], mine))
    row = {"case": name, "ours_tokens_per_s": round(tokens / statistics.median(mine)),
           "peer_tokens_per_s": round(tokens / statistics.median(theirs[best])), "peer": f"transformers {best}",
           "ratio": round(statistics.median(ratios), 2),
           "ratio_min": round(ratios[0], 2), "ratio_max": round(ratios[-1], 2),
           "cpu_ratio": statistics.median(their_cpu[best]) / statistics.median(my_cpu)}
    print(f"| {name} | {row['ours_tokens_per_s']} | {row['peer_tokens_per_s']} ({best}) | {row['ratio']:.2f} "
          f"({row['ratio_min']:.2f} .. {row['ratio_max']:.2f}) | {row['cpu_ratio']:.2f} | {100 * detail.get('share_of_peak', 0):.0f} % | "
          f"{details[0]['products_compiled'] / steps:.1f} .. {details[-1]['products_compiled'] / steps:.1f} | "
          + ", ".join(f"{key} {100 * value:.0f} %" for key, value in detail.get("phases", {}).items()) + " |", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ours", required=True, help="path of moe_train_bench")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=3, help="steps per block")
    parser.add_argument("--only", default="", help="only cases whose name contains this")
    arguments = parser.parse_args()
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # read when the libraries are loaded
    import torch
    import transformers
    torch.set_num_threads(arguments.threads)
    transformers.logging.set_verbosity_error()
    print(f"# torch {torch.__version__}, transformers {transformers.__version__}, fp32, {arguments.threads} threads, "
          f"{arguments.rounds} rounds of {arguments.steps} steps, medians")
    print("| case | ours, tokens/s | transformers, tokens/s | ratio (min .. max) | by CPU time | of matmul peak | products compiled a step, first .. last round | "
          "our time by phase |")
    print("|---|---:|---:|---:|---:|---:|---:|---|")
    ours = Ours(arguments.ours, arguments.threads)
    for kind, cases in (("model", CASES), ("layer", LAYER_CASES)):
        for name, case in cases.items():
            if arguments.only in name:
                compare(kind, name, case, ours, arguments)


if __name__ == "__main__":
    main()
