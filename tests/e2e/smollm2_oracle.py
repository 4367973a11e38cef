"""What transformers makes of SmolLM2 directories, for tests/e2e/smollm2_test.cc to compare with.

  smollm2_oracle.py OUT.json TEXTS.jsonl PROMPT ANSWER_TOKENS MODEL_DIR...
      Loads each directory in fp32 without code of its own. Writes {directory: {"keys": [missing, unexpected, mismatched], "type",
      "rendered": the prompt in the directory's chat template, "answer": greedy, at most ANSWER_TOKENS, "windows": one a text}}. A window is
      {"logprobs": of each token after the first, "tie": position of the first token that some router sends to one of two experts whose
      logits differ by less than 1e-4, or null}: from there on another program may rightly compute something else.
"""
import json
import sys

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

TIE = 1e-4


def first_tie(router_logits, chosen):
    position = None
    for logits in router_logits or ():
        best = logits.float().topk(chosen + 1, dim=-1).values
        ties = (best[:, chosen - 1] - best[:, chosen] < TIE).nonzero()[:, 0].tolist()
        position = min([position] * (position is not None) + ties, default=None)
    return position


def measure_window(model, tokens):
    chosen = getattr(model.config, "num_experts_per_tok", 0)
    outputs = model(input_ids=tokens, **({"output_router_logits": True} if chosen else {}))
    logprobs = outputs.logits[0, :-1].log_softmax(-1).gather(1, tokens[0, 1:, None])[:, 0]
    return {"logprobs": logprobs.tolist(), "tie": first_tie(outputs.router_logits, chosen) if chosen else None}


def measure(directory, texts, prompt, new_tokens):
    model, loading = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32, attn_implementation="eager", output_loading_info=True)
    model.eval()
    tokenizer = AutoTokenizer.from_pretrained(directory)
    rendered = tokenizer.apply_chat_template([{"role": "user", "content": prompt}], tokenize=False, add_generation_prompt=True)
    ids = tokenizer(rendered, add_special_tokens=False, return_tensors="pt").input_ids
    with torch.no_grad():
        answer = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=new_tokens, do_sample=False)[0, ids.shape[1]:]
        windows = [measure_window(model, tokenizer(text, add_special_tokens=False, return_tensors="pt").input_ids) for text in texts]
    return {
        "keys": [sorted(loading[name]) for name in ("missing_keys", "unexpected_keys", "mismatched_keys")],
        "type": type(model).__name__,
        "rendered": rendered,
        "answer": tokenizer.decode(answer, skip_special_tokens=True),
        "answer_tokens": len(answer),
        "windows": windows,
    }


def main():
    out, texts, prompt, new_tokens, *directories = sys.argv[1:]
    texts = [json.loads(line)["text"] for line in open(texts)]
    json.dump({directory: measure(directory, texts, prompt, int(new_tokens)) for directory in directories}, open(out, "w"))


if __name__ == "__main__":
    sys.exit(main())
