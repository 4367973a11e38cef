"""What transformers makes of exported SmolLM2 directories, for tests/e2e/smollm2_test.cc to compare with.

  smollm2_oracle.py OUT.json TEXTS.jsonl PROMPT MODEL_DIR...
      Loads each directory in fp32 without code of its own. Writes {directory: {"keys": [missing, unexpected, mismatched], "type",
      "ids" of the prompt in the directory's chat template, "answer" (greedy, 64 new tokens at most), "logprob" (sum over all targets of
      TEXTS.jsonl), "targets"}}.
"""
import json
import sys

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

NEW_TOKENS = 64


def measure(directory, texts, prompt):
    model, loading = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32, attn_implementation="eager", output_loading_info=True)
    model.eval()
    tokenizer = AutoTokenizer.from_pretrained(directory)
    chat = [{"role": "user", "content": prompt}]
    rendered = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    ids = tokenizer(rendered, add_special_tokens=False, return_tensors="pt").input_ids
    logprob, targets = 0.0, 0
    with torch.no_grad():
        answer = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=NEW_TOKENS, do_sample=False)[0, ids.shape[1]:]
        for text in texts:
            tokens = tokenizer(text, add_special_tokens=False, return_tensors="pt").input_ids
            logits = model(input_ids=tokens).logits[0, :-1].log_softmax(-1)
            logprob += logits.gather(1, tokens[0, 1:, None]).double().sum().item()
            targets += tokens.shape[1] - 1
    return {
        "keys": [sorted(loading[name]) for name in ("missing_keys", "unexpected_keys", "mismatched_keys")],
        "type": type(model).__name__,
        "rendered": rendered,
        "ids": ids[0].tolist(),
        "answer": tokenizer.decode(answer, skip_special_tokens=True),
        "answer_ids": answer.tolist(),
        "logprob": logprob,
        "targets": targets,
    }


def main():
    out, texts, prompt, *directories = sys.argv[1:]
    texts = [json.loads(line)["text"] for line in open(texts)]
    json.dump({directory: measure(directory, texts, prompt) for directory in directories}, open(out, "w"))


if __name__ == "__main__":
    sys.exit(main())
