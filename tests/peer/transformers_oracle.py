"""Logits of transformers' LlamaForCausalLM on the CPU, for the C++ side to compare with.

  transformers_oracle.py logits MODEL_DIR OUT_DIR TOKENS [--float64] [--ids FILE]
      Writes OUT_DIR/oracle.safetensors: ids [T] (int64, random unless FILE holds space-separated ids), logits [T, V] in float32
      and, with --float64, logits64 in float64.
  transformers_oracle.py random OUT_DIR COUNT SEED
      Writes COUNT small random models to OUT_DIR/<n>, each with its oracle.safetensors.
  transformers_oracle.py golden MODEL_DIR FILE TOKENS
      Writes a small recording for machines without transformers: ids, every 64th column of the logits, log sum exp of all.
"""
import argparse
import json
import pathlib
import random

import torch
import transformers
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM


def logits(model, ids):
    with torch.no_grad():
        return model(input_ids=ids[None]).logits[0]


def load(directory, dtype):
    return AutoModelForCausalLM.from_pretrained(directory, dtype=dtype, attn_implementation="eager").eval()


def write_oracle(directory, out, ids, with_float64):
    tensors = {"ids": ids, "logits": logits(load(directory, torch.float32), ids).float().contiguous()}
    if with_float64:
        tensors["logits64"] = logits(load(directory, torch.float64), ids).double().contiguous()
    save_file(tensors, str(pathlib.Path(out) / "oracle.safetensors"))


def random_config(rng, number):
    heads, kv_heads = rng.choice([(3, 3), (3, 1), (5, 5), (5, 1), (4, 2), (6, 2), (8, 1), (9, 3), (1, 1), (2, 2)])
    head_dim = rng.choice([4, 6, 8, 10, 16, 20])
    tied_to_heads = rng.random() < 0.5  # otherwise head_dim stands in the config and heads * head_dim is not the hidden size
    return LlamaConfig(
        hidden_size=heads * head_dim if tied_to_heads else heads * rng.choice([4, 7, 12]),
        head_dim=None if tied_to_heads else head_dim,
        intermediate_size=rng.choice([7, 43, 86, 128]),
        num_hidden_layers=rng.choice([1, 2, 3]),
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        vocab_size=rng.choice([17, 100, 333]),
        max_position_embeddings=rng.choice([128, 512]),
        rms_norm_eps=rng.choice([1e-5, 1e-6]),
        rope_parameters={"rope_type": "default", "rope_theta": rng.choice([10000.0, 500000.0, 1234.5])},
        tie_word_embeddings=number % 2 == 0,
        initializer_range=rng.choice([0.02, 0.2]),
    )


def write_random_models(out, count, seed):
    rng = random.Random(seed)
    for number in range(count):
        torch.manual_seed(seed * 1000 + number)
        directory = pathlib.Path(out) / str(number)
        config = random_config(rng, number)
        model = LlamaForCausalLM(config).float()
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.data.normal_(1.0, 0.2)
        model.save_pretrained(directory)
        if number % 3 == 0:  # the spelling of transformers 4
            path = directory / "config.json"
            written = json.loads(path.read_text())
            written["rope_theta"] = written.pop("rope_parameters")["rope_theta"]
            written["rope_scaling"] = None
            path.write_text(json.dumps(written, indent=1))
        write_oracle(directory, directory, torch.randint(0, config.vocab_size, (rng.choice([1, 33, 100]),)), False)


def write_golden(model, file, tokens):
    torch.manual_seed(2)
    llama = load(model, torch.float32)
    ids = torch.randint(0, llama.config.vocab_size, (tokens,))
    values = logits(llama, ids).float()
    save_file({"ids": ids, "columns": values[:, ::64].contiguous(), "log_sum": values.logsumexp(1), "argmax": values.argmax(1)}, file,
              metadata={"made_by": f"tests/peer/transformers_oracle.py golden, transformers {transformers.__version__}, "
                                   f"torch {torch.__version__}, float32 on CPU"})


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("command", choices=["logits", "random", "golden"])
    parser.add_argument("arguments", nargs=3)
    parser.add_argument("--float64", action="store_true")
    parser.add_argument("--ids")
    options = parser.parse_args()
    torch.set_num_threads(2)
    if options.command == "random":
        out, count, seed = options.arguments
        write_random_models(out, int(count), int(seed))
        return
    model, out, tokens = options.arguments
    if options.command == "golden":
        write_golden(model, out, int(tokens))
        return
    torch.manual_seed(1)
    if options.ids:
        ids = torch.tensor([int(word) for word in pathlib.Path(options.ids).read_text().split()])
    else:
        vocabulary = json.loads((pathlib.Path(model) / "config.json").read_text())["vocab_size"]
        ids = torch.randint(0, vocabulary, (int(tokens),))
    write_oracle(model, out, ids, options.float64)


if __name__ == "__main__":
    main()
