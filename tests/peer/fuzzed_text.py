"""Strings that a tokenizer may get wrong, from five generators, and real text. Imported by the oracles."""
import json

WORDS = ["the", "Once", "def", "return", "x1", "{", "}", "==", "->", "#include", "foo_bar", "3.14", "I'm", "don't", "we'LL", "1234567", "new york",
         "cat", "dog", "The cat sat.", "!?", "qq", "a-b", "'\u017f", "'S", "o'clock's"]
LANGUAGES = ["été", "état", "Straße", "привет", "мир", "你好", "世界", "こんにちは", "한국어", "\u1112\u1161\u11ab", "עברית", "العربية", "हिन्दी", "क\u093c",
             "🦙🎉", "ﬁ", "Å", "A\u030a", "e\u0301", "o\u0323\u0308", "o\u0308\u0323", "\u0344", "q\u0307\u0323", "\u0958", "٣٤", "Ⅷ", "½", "\u1e9b\u0323",
             "\U000110ab", "\U0001e947\U0001e944", "\u1ab0\u0345"]
SPECIALS = ["<s>", "</s>", "<unk>", "<0x0A>", "<0xFF>", "\u2581", "\u2581\u2581", "<", ">", "s>", "<pad>", "<|endoftext|>", "<|im_start|>", "<|im_end|>",
            "<|begin_of_text|>", "<|eot_id|>", "<|eot", "_id|>", "<tool_call>", "</tool_call>", "<repo_name>", "<reponame>", "<left>", "<right>", "<both>",
            "cat", "dog", "<|x|>", "<|x|>>", "<|x|>>>>", "é", "e\u0301", "e\u0301tat", "   ", "\n\n", "new york", "_", "x"]
WHITESPACE = ["\x00", "\x0b", "\x7f", "\x85", "\u2028", " ", "  ", "   ", "        ", "\t", "\t\t\t", "\n", "\r", "\r\n", "\n\n", "\u00a0", "\u3000",
              "\u200b", "\u180e", " \n ", "\ufeff"]


def code(rng):
    return "".join(rng.choice(WORDS + [" ", " ", "  ", "\n", "\t", "    "]) for _ in range(rng.randint(0, 16)))


def whitespace_runs(rng):
    return "".join(rng.choice(WHITESPACE + ["a", "b", "!", "1"]) for _ in range(rng.randint(0, 14)))


def multilingual(rng):
    return "".join(rng.choice(LANGUAGES + WORDS + [" ", " "]) for _ in range(rng.randint(0, 12)))


def random_code_points(rng):
    """All planes; letters and marks of the first ones more often."""
    kinds = ((0x00, 0x7F), (0x20, 0x7E), (0xA0, 0x2FFF), (0x300, 0x36F), (0x3000, 0xD7FF), (0xE000, 0xFFFF), (0x10000, 0x1FFFF), (0x10000, 0x10FFFF))
    return "".join(chr(rng.randint(*rng.choice(kinds))) for _ in range(rng.randint(0, 20)))


def special_fragments(rng):
    return "".join(rng.choice(SPECIALS + WORDS[:6] + [" ", "  "]) for _ in range(rng.randint(0, 12)))


GENERATORS = (code, whitespace_runs, multilingual, random_code_points, special_fragments)


def fuzzed(rng, count):
    return [GENERATORS[i % len(GENERATORS)](rng) for i in range(count)]


def real_text(files, limit):
    """An equal share of each file; again from the start where a file is shorter than its share."""
    texts = []
    for name in files:
        size = 0
        share = limit / len(files)
        while size < share:
            with open(name, encoding="utf-8") as lines:
                for line in lines:
                    if size >= share:
                        break
                    record = json.loads(line)
                    texts.append(record["text"] if "text" in record else "\n\n".join(m["content"] for m in record["messages"]))
                    size += len(texts[-1].encode())
    return texts
