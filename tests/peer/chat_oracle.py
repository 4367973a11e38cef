"""Chats rendered by jinja2 and transformers, for the C++ side to compare with.

  chat_oracle.py render TEMPLATES.json OUT.jsonl COUNT SEED [SMOLLM2_DIR]
      TEMPLATES.json: {name: {"jinja", "bos", "eos"}}. Writes COUNT random conversations, a line each: {"messages", "prompt" (whether the
      generation prompt is asked for), "texts": {name: text, or null where the template raises}}. Rendered as transformers does it: an
      ImmutableSandboxedEnvironment with trim_blocks and lstrip_blocks. With SMOLLM2_DIR also "smollm2_directory": what
      apply_chat_template of the tokenizer there gives.
  chat_oracle.py masks TOKENIZER_DIR TEMPLATES.json NAME CHATS.jsonl OUT.jsonl COUNT
      The first COUNT chats ({"messages"}) as tokens with what is learned (of answers of "weight" 0 nothing), a line each: {"ids",
      "supervised"}. Independent of the C++
      code: jinja2 renders, marks of our own around every answer say where it stands, and the library tokenizers (tokenizer.json) or
      sentencepiece (tokenizer.model, cut at control pieces) gives ids and offsets.
  chat_oracle.py markers TOKENIZER_DIR CHATS.jsonl OUT.jsonl COUNT
      The same for the template plain_markers on a SentencePiece model.
"""
import argparse
import json
import pathlib
import random
import re
import sys

from jinja2.exceptions import TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

BEGIN, END = "\ue000", "\ue001"  # private use: in no conversation


def compile_template(text):
    def raise_exception(message):
        raise TemplateError(message)

    def strftime_now(form):
        raise TemplateError("a date of today")

    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = strftime_now
    return environment.from_string(text)


FRAGMENTS = ["Hello", " world", "\n", "\n\n", " ", "\t", "\u00a0", "\u2003", "\u3000", "\u200b", "\x1f", "你好", "é", "🦙", "<|im_end|>", "<|eot_id|>",
             "</s>", "<s>", "[INST]", "### User:", "{{ x }}", "{% if %}", "'", '"', "\\n", "ASSISTANT:", "1234", "...", "e\u0301"]


def random_text(rng):
    return "".join(rng.choice(FRAGMENTS) for _ in range(rng.choice([0, 1, 2, 3, 5, 9])))


def random_chat(rng):
    messages = [{"role": "system", "content": random_text(rng)}] if rng.random() < 0.5 else []
    if rng.random() < 0.85:  # in turn, as most templates want it
        for turn in range(rng.randint(1, 7)):
            messages.append({"role": "assistant" if turn % 2 else "user", "content": random_text(rng)})
    else:
        for _ in range(rng.randint(1, 6)):
            messages.append({"role": rng.choice(["user", "assistant", "system"]), "content": random_text(rng)})
    if rng.random() < 0.2:
        first = next((message for message in messages if message["role"] == "user"), None)
        if first:
            first["input"] = random_text(rng)
    return messages


def render(args):
    templates = json.load(open(args.templates))
    compiled = {name: (compile_template(entry["jinja"]), entry) for name, entry in templates.items()}
    tokenizer = None
    if args.smollm2:
        from transformers import AutoTokenizer
        tokenizer = AutoTokenizer.from_pretrained(args.smollm2)
    rng = random.Random(args.seed)
    with open(args.out, "w") as out:
        for _ in range(args.count):
            messages, prompt, texts = random_chat(rng), rng.random() < 0.5, {}
            for name, (template, entry) in compiled.items():
                try:
                    texts[name] = template.render(messages=messages, add_generation_prompt=prompt, bos_token=entry["bos"], eos_token=entry["eos"])
                except TemplateError:
                    texts[name] = None
            line = {"messages": messages, "prompt": prompt, "texts": texts}
            if tokenizer:
                line["smollm2_directory"] = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=prompt)
            out.write(json.dumps(line) + "\n")


def chats(path, count):
    with open(path) as lines:
        for line, _ in zip(lines, range(count)):
            yield json.loads(line)["messages"]


def learned_spans(messages, spans):
    """Of the stretches of the answers those that are learned."""
    weights = [message.get("weight", 1) for message in messages if message["role"] == "assistant"]
    assert len(weights) == len(spans)
    return [span for span, weight in zip(spans, weights) if weight]


def without_marks(text):
    """The text without our marks, and the stretches [begin, end) of it that were marked."""
    plain, spans = "", []
    for character in text:
        if character == BEGIN:
            spans.append([len(plain), None])
        elif character == END:
            spans[-1][1] = len(plain)
        else:
            plain += character
    return plain, spans


def sentencepiece_encoder(directory):
    """Text -> ids and byte offsets, as transformers' legacy tokenizer does: control pieces are cut out, the rest encoded piece by piece."""
    import sentencepiece
    processor = sentencepiece.SentencePieceProcessor(model_file=str(directory / "tokenizer.model"))
    control = {processor.id_to_piece(i): i for i in range(processor.get_piece_size()) if processor.is_control(i)}

    def encode(text):
        ids, offsets, at = [], [], 0
        for part in re.split("(" + "|".join(map(re.escape, control)) + ")", text):
            if part in control:
                ids.append(control[part])
                offsets.append((at, at + len(part.encode())))
            else:
                for piece in processor.encode(part, return_type="proto").pieces:
                    ids.append(piece.id)
                    offsets.append((at + piece.begin, at + piece.end))
            at += len(part.encode())
        return ids, offsets

    return encode


def tokenizers_encoder(directory):
    """Text -> ids and byte offsets, as tokenizer.json says. Not by transformers, whose GPT2Tokenizer (5.23, SmolLM2's class) puts GPT-2's
    own pre-tokenizer in the place of the file's: two spaces before a digit become other tokens."""
    from tokenizers import Tokenizer
    tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))

    def encode(text):
        encoding = tokenizer.encode(text, add_special_tokens=False)
        at = [0]
        for character in text:
            at.append(at[-1] + len(character.encode()))
        return encoding.ids, [(at[first], at[last]) for first, last in encoding.offsets]

    return encode


def masks(args):
    entry = json.load(open(args.templates))[args.name]
    template = compile_template(entry["jinja"])
    directory = pathlib.Path(args.tokenizer)
    encode = tokenizers_encoder(directory) if (directory / "tokenizer.json").exists() else sentencepiece_encoder(directory)
    values = {"add_generation_prompt": False, "bos_token": entry["bos"], "eos_token": entry["eos"]}
    with open(args.out, "w") as out:
        for messages in chats(args.chats, args.count):
            # Trimmed before they are marked, for templates that trim; the text is compared with that of the chat as it is.
            text_of = (lambda text: text.strip()) if entry["trims"] else (lambda text: text)
            marked = [dict(m, content=BEGIN + text_of(m["content"]) + END) if m["role"] == "assistant" else m for m in messages]
            plain, spans = without_marks(template.render(messages=marked, **values))
            assert plain == template.render(messages=messages, **values)
            marker, before = entry["marker"], len(entry["before"])
            spans = [(begin - before, plain.index(marker, end) + len(marker)) for begin, end in spans]
            spans = [(len(plain[:begin].encode()), len(plain[:end].encode())) for begin, end in spans]
            ids, offsets = encode(plain)
            spans = learned_spans(messages, spans)
            supervised = [int(any(begin <= first and last <= end and first < end for begin, end in spans)) for first, last in offsets]
            out.write(json.dumps({"ids": ids, "supervised": supervised}) + "\n")


def markers(args):
    import sentencepiece
    processor = sentencepiece.SentencePieceProcessor(model_file=args.tokenizer + "/tokenizer.model")
    titles = {"system": "### System:\n", "user": "### User:\n", "assistant": "### Assistant:\n"}
    with open(args.out, "w") as out:
        for messages in chats(args.chats, args.count):
            text, spans = "", []
            for message in messages:
                text += ("\n\n" if text else "") + titles[message["role"]]
                if message["role"] == "assistant":
                    spans.append((len(text.encode()), len((text + message["content"]).encode())))
                text += message["content"]
            ids, supervised = [processor.bos_id()], [0]
            pieces = processor.encode(text, return_type="proto").pieces
            ends, spans = spans, learned_spans(messages, spans)
            for piece in pieces:
                while ends and ends[0][1] <= piece.begin:
                    ids.append(processor.eos_id())
                    supervised.append(int(ends.pop(0) in spans))
                ids.append(piece.id)
                supervised.append(int(any(begin <= piece.begin and piece.end <= end for begin, end in spans)))
            for span in ends:
                ids.append(processor.eos_id())
                supervised.append(int(span in spans))
            out.write(json.dumps({"ids": ids, "supervised": supervised}) + "\n")


def main():
    parser = argparse.ArgumentParser()
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("render")
    command.add_argument("templates"), command.add_argument("out")
    command.add_argument("count", type=int), command.add_argument("seed", type=int), command.add_argument("smollm2", nargs="?")
    command.set_defaults(run=render)
    command = commands.add_parser("masks")
    for name in ("tokenizer", "templates", "name", "chats", "out"):
        command.add_argument(name)
    command.add_argument("count", type=int)
    command.set_defaults(run=masks)
    command = commands.add_parser("markers")
    for name in ("tokenizer", "chats", "out"):
        command.add_argument(name)
    command.add_argument("count", type=int)
    command.set_defaults(run=markers)
    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    sys.exit(main())
