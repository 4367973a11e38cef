#!/usr/bin/env python3
"""Writes small coding instructions with correct answers: examples/data/code.{train,valid}.jsonl.

    python3 tools/make_code_data.py examples/data

Every pair is composed from the tables below (a task, a language, names, constants), so the text is ours and may be shared
freely. The Python answers are executed against their task's own examples while they are written: a pair whose answer is
wrong never reaches the file. Same seed, same files. No request stands in both files.
"""
import argparse
import json
import random
from pathlib import Path

NAMES = ["values", "numbers", "items", "data", "xs", "scores", "prices", "readings", "amounts", "samples"]
THINGS = ["orders", "students", "tickets", "books", "players", "cities", "songs", "recipes", "robots", "plants"]
FIELDS = ["price", "age", "score", "weight", "year", "rating", "length", "stock"]

# (request, python body, javascript body, check); {v} a list name, {n} a constant. Bodies are indented by their language.
LIST_TASKS = [
    ("returns the sum of all elements greater than {n} in the list {v}",
     "return sum(x for x in {v} if x > {n})", "return {v}.filter(x => x > {n}).reduce((a, b) => a + b, 0);",
     lambda v, n: sum(x for x in v if x > n)),
    ("counts how many elements of the list {v} are divisible by {n}",
     "return sum(1 for x in {v} if x % {n} == 0)", "return {v}.filter(x => x % {n} === 0).length;",
     lambda v, n: len([x for x in v if x % n == 0])),
    ("returns a new list with every element of {v} multiplied by {n}",
     "return [x * {n} for x in {v}]", "return {v}.map(x => x * {n});", lambda v, n: [x * n for x in v]),
    ("returns the {n} largest elements of the list {v} in descending order",
     "return sorted({v}, reverse=True)[:{n}]", "return [...{v}].sort((a, b) => b - a).slice(0, {n});",
     lambda v, n: sorted(v)[::-1][:n]),
    ("removes duplicates from the list {v} and keeps only elements below {n}",
     "result = []\nfor x in {v}:\n    if x < {n} and x not in result:\n        result.append(x)\nreturn result",
     "return [...new Set({v})].filter(x => x < {n});", lambda v, n: list(dict.fromkeys(x for x in v if x < n))),
    ("splits the list {v} into chunks of length {n}",
     "return [{v}[i:i + {n}] for i in range(0, len({v}), {n})]",
     "const chunks = [];\nfor (let i = 0; i < {v}.length; i += {n}) {{\n  chunks.push({v}.slice(i, i + {n}));\n}}\nreturn chunks;",
     lambda v, n: [v[i:i + n] for i in range(0, len(v), n)]),
    ("rotates the list {v} to the left by {n} positions",
     "k = {n} % len({v}) if {v} else 0\nreturn {v}[k:] + {v}[:k]",
     "const k = {v}.length ? {n} % {v}.length : 0;\nreturn {v}.slice(k).concat({v}.slice(0, k));",
     lambda v, n: v[n % len(v):] + v[:n % len(v)] if v else []),
    ("returns the index of the first element of {v} that is at least {n}, or -1 if there is none",
     "for i, x in enumerate({v}):\n    if x >= {n}:\n        return i\nreturn -1",
     "return {v}.findIndex(x => x >= {n});", lambda v, n: next((i for i, x in enumerate(v) if x >= n), -1)),
    ("returns the running sums of the list {v}, starting from {n}",
     "total = {n}\nresult = []\nfor x in {v}:\n    total += x\n    result.append(total)\nreturn result",
     "let total = {n};\nreturn {v}.map(x => total += x);", lambda v, n: [n + sum(v[:i + 1]) for i in range(len(v))]),
    ("clamps every element of the list {v} to at most {n}",
     "return [min(x, {n}) for x in {v}]", "return {v}.map(x => Math.min(x, {n}));", lambda v, n: [min(x, n) for x in v]),
    ("returns every {n}-th element of the list {v}",
     "return {v}[::{n}]", "return {v}.filter((_, i) => i % {n} === 0);", lambda v, n: v[::n]),
    ("checks whether any two neighbouring elements of {v} differ by more than {n}",
     "return any(abs(a - b) > {n} for a, b in zip({v}, {v}[1:]))",
     "return {v}.slice(1).some((x, i) => Math.abs(x - {v}[i]) > {n});",
     lambda v, n: any(abs(v[i] - v[i + 1]) > n for i in range(len(v) - 1))),
]

NUMBER_TASKS = [
    ("returns the sum of the digits of n", "return sum(int(d) for d in str(abs(n)))", [(1234, 10), (0, 0), (905, 14)]),
    ("checks whether n is a prime number",
     "if n < 2:\n    return False\nfor d in range(2, int(n ** 0.5) + 1):\n    if n % d == 0:\n        return False\nreturn True",
     [(2, True), (9, False), (97, True), (1, False)]),
    ("returns the factorial of n", "result = 1\nfor i in range(2, n + 1):\n    result *= i\nreturn result", [(0, 1), (5, 120)]),
    ("returns the n-th Fibonacci number", "a, b = 0, 1\nfor _ in range(n):\n    a, b = b, a + b\nreturn a", [(0, 0), (10, 55)]),
    ("reverses the decimal digits of the non-negative integer n", "return int(str(n)[::-1])", [(120, 21), (7, 7)]),
    ("returns the binary representation of n as a string", "return bin(n)[2:]", [(5, "101"), (0, "0")]),
    ("lists all divisors of n in ascending order", "return [d for d in range(1, n + 1) if n % d == 0]", [(12, [1, 2, 3, 4, 6, 12])]),
    ("counts the trailing zeros of n in binary, for n greater than 0",
     "count = 0\nwhile n % 2 == 0:\n    n //= 2\n    count += 1\nreturn count", [(8, 3), (5, 0)]),
]

TEXT_TASKS = [
    ("reverses the string {s}", "return {s}[::-1]", lambda s: s[::-1]),
    ("checks whether the string {s} is a palindrome, ignoring case",
     "{s} = {s}.lower()\nreturn {s} == {s}[::-1]", lambda s: s.lower() == s.lower()[::-1]),
    ("counts the vowels in the string {s}", "return sum(1 for c in {s}.lower() if c in 'aeiou')",
     lambda s: sum(c in "aeiou" for c in s.lower())),
    ("returns the words of the string {s} sorted by length", "return sorted({s}.split(), key=len)",
     lambda s: sorted(s.split(), key=len)),
    ("capitalizes the first letter of every word in {s}",
     "return ' '.join(w[:1].upper() + w[1:] for w in {s}.split(' '))",
     lambda s: " ".join(w[:1].upper() + w[1:] for w in s.split(" "))),
    ("counts how often each word occurs in the string {s} and returns a dictionary",
     "counts = {{}}\nfor word in {s}.split():\n    counts[word] = counts.get(word, 0) + 1\nreturn counts",
     lambda s: {w: s.split().count(w) for w in s.split()}),
    ("removes all spaces from the string {s}", "return {s}.replace(' ', '')", lambda s: "".join(s.split(" "))),
    ("returns the longest word in the string {s}", "return max({s}.split(), key=len, default='')",
     lambda s: max(s.split(), key=len, default="")),
]

PYTHON_ASKS = ["Write a Python function that {t}.", "Create a function in Python which {t}.", "In Python, write a function called {f} that {t}.",
               "Implement a Python function {f} that {t}.", "How would you write a Python function that {t}?"]
JS_ASKS = ["Write a JavaScript function that {t}.", "Create a JavaScript function called {f} that {t}.",
           "Implement {f} in JavaScript: it {t}.", "In JavaScript, write a function which {t}."]
SQL_ASKS = ["Write a SQL query that {t}.", "Create a SQL query which {t}.", "Give me a SQL statement that {t}."]
WORDS = ["compute", "get", "find", "process", "make", "build", "calc", "apply"]


def indent(body, width):
    return "\n".join(" " * width + line for line in body.split("\n"))


def run_python(code, function, arguments):
    scope = {}
    exec(code, scope)  # our own text, composed above
    return scope[function](*arguments)


def list_pair(rng):
    text, python, javascript, check = rng.choice(LIST_TASKS)
    name, constant = rng.choice(NAMES), rng.randint(2, 60)
    function = f"{rng.choice(WORDS)}_{name}"
    task = text.format(v=name, n=constant)
    if rng.random() < 0.6:
        code = f"def {function}({name}):\n{indent(python.format(v=name, n=constant), 4)}"
        values = [rng.randint(0, 99) for _ in range(rng.randint(0, 9))]
        assert run_python(code, function, [list(values)]) == check(values, constant), code
        return rng.choice(PYTHON_ASKS).format(t=task, f=function), code
    camel = function.split("_")[0] + name.capitalize()
    code = f"function {camel}({name}) {{\n{indent(javascript.format(v=name, n=constant), 2)}\n}}"
    return rng.choice(JS_ASKS).format(t=task.replace("list", "array"), f=camel), code


def number_pair(rng):
    text, python, cases = rng.choice(NUMBER_TASKS)
    function = f"{rng.choice(WORDS)}_{rng.choice(['number', 'value', 'result', 'answer', 'n'])}"
    code = f"def {function}(n):\n{indent(python, 4)}"
    for argument, expected in cases:
        assert run_python(code, function, [argument]) == expected, code
    example, expected = rng.choice(cases)
    ask = rng.choice(PYTHON_ASKS).format(t=text, f=function)
    if rng.random() < 0.5:
        ask += f" Show an example for n = {example}."
        code += f"\n\nprint({function}({example}))  # {expected!r}"
    return ask, code


def text_pair(rng):
    text, python, check = rng.choice(TEXT_TASKS)
    name = rng.choice(["text", "s", "line", "sentence", "title", "message", "phrase"])
    function = f"{rng.choice(WORDS)}_{name}"
    code = f"def {function}({name}):\n{indent(python.format(s=name), 4)}"
    sample = " ".join(rng.choice(THINGS + FIELDS + ["Anna", "level", "a"]) for _ in range(rng.randint(1, 5)))
    assert run_python(code, function, [sample]) == check(sample), code
    ask = rng.choice(PYTHON_ASKS).format(t=text.format(s=name), f=function)
    if rng.random() < 0.5:
        ask += f" Test it with \"{sample}\"."
        code += f"\n\nprint({function}(\"{sample}\"))"
    return ask, code


def sql_pair(rng):
    table, field, other = rng.choice(THINGS), *rng.sample(FIELDS, 2)
    n = rng.randint(2, 500)
    task, code = rng.choice([
        (f"selects all {table} whose {field} is greater than {n}", f"SELECT * FROM {table} WHERE {field} > {n};"),
        (f"returns the average {field} of the table {table}", f"SELECT AVG({field}) FROM {table};"),
        (f"lists the {n} {table} with the highest {field}", f"SELECT * FROM {table} ORDER BY {field} DESC LIMIT {n};"),
        (f"counts the {table} for each {field}", f"SELECT {field}, COUNT(*) FROM {table} GROUP BY {field};"),
        (f"sets {field} to {n} for all {table} whose {other} is zero", f"UPDATE {table} SET {field} = {n} WHERE {other} = 0;"),
        (f"deletes the {table} with a {field} below {n}", f"DELETE FROM {table} WHERE {field} < {n};"),
        (f"shows the largest {other} of the {table} for each {field} above {n}",
         f"SELECT {field}, MAX({other}) FROM {table} WHERE {field} > {n} GROUP BY {field};"),
    ])
    return rng.choice(SQL_ASKS).format(t=task), code


def class_pair(rng):
    thing, (a, b) = rng.choice(THINGS).rstrip("s").capitalize(), rng.sample(FIELDS, 2)
    n = rng.randint(1, 90)
    code = (f"class {thing}:\n    def __init__(self, name, {a}, {b}):\n        self.name = name\n        self.{a} = {a}\n"
            f"        self.{b} = {b}\n\n    def is_{a}_above(self, limit={n}):\n        return self.{a} > limit")
    scope = {}
    exec(code, scope)  # our own text, composed above
    assert getattr(scope[thing]("x", n + 1, 0), f"is_{a}_above")()
    ask = (f"Create a Python class {thing} with the attributes name, {a} and {b} and a method that tells whether {a} is above "
           f"a limit, which is {n} by default.")
    return ask, code


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--train", type=int, default=4000, help="pairs for training (default %(default)s)")
    parser.add_argument("--valid", type=int, default=200, help="pairs held out (default %(default)s)")
    parser.add_argument("--seed", type=int, default=7)
    arguments = parser.parse_args()
    rng = random.Random(arguments.seed)
    makers, weights = [list_pair, number_pair, text_pair, sql_pair, class_pair], [5, 1, 2, 2, 1]
    pairs = {}
    while len(pairs) < arguments.train + arguments.valid:
        ask, code = rng.choices(makers, weights)[0](rng)
        pairs.setdefault(ask, code)
    lines = [json.dumps({"messages": [{"role": "user", "content": ask}, {"role": "assistant", "content": code}], "domain": "code"})
             for ask, code in pairs.items()]
    rng.shuffle(lines)
    for name, part in (("train", lines[arguments.valid:]), ("valid", lines[:arguments.valid])):
        (arguments.folder / f"code.{name}.jsonl").write_text("\n".join(part) + "\n")
        print(f"code.{name}.jsonl: {len(part)} pairs")


if __name__ == "__main__":
    main()
