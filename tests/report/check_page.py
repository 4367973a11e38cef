#!/usr/bin/env python3
"""Fails unless an HTML file is well formed, self-contained and fit for a phone.

    check_page.py FILE.html...     every tag closed in order, no script, nothing fetched, a viewport, headings in order,
                                   each <svg> valid XML with a label, each table with header cells
"""
import re
import sys
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser

VOID = {"meta", "link", "br", "img", "input", "hr"}
FETCHING = {"src", "href", "srcset", "poster", "action", "data", "xlink:href"}


class Page(HTMLParser):
    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.open, self.problems, self.tags, self.headings = [], [], [], []

    def handle_starttag(self, tag, attributes):
        self.start(tag, attributes)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.start(tag, attributes)

    def start(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        names = [name for name, _ in attributes]
        if len(names) != len(set(names)):
            self.problems.append(f"<{tag}> repeats an attribute")
        for name, value in attributes:
            if name in FETCHING and value != "data:,":
                self.problems.append(f"<{tag} {name}={value}> fetches something")
            if name.startswith("on"):
                self.problems.append(f"<{tag} {name}> runs script")
        if tag in ("script", "iframe", "object", "embed"):
            self.problems.append(f"<{tag}> in the page")
        if re.fullmatch(r"h[1-6]", tag):
            self.headings.append(int(tag[1]))

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.problems.append(f"</{tag}> closes nothing at {self.getpos()}")


def problems_of(text):
    page = Page()
    page.feed(text)
    page.close()
    problems = page.problems + [f"<{tag}> is never closed" for tag in page.open]
    if not text.startswith("<!DOCTYPE html>"):
        problems.append("no doctype")
    if not any(tag == "meta" and "width=device-width" in a.get("content", "") for tag, a in page.tags):
        problems.append("no viewport")
    if page.headings[:1] != [1] or any(b > a + 1 for a, b in zip(page.headings, page.headings[1:])):
        problems.append(f"headings out of order: {page.headings}")
    style = "".join(re.findall(r"<style>(.*?)</style>", text, re.S))
    if re.search(r"url\(|@import", style) or "prefers-color-scheme: dark" not in style:
        problems.append("the style fetches something or knows no dark mode")
    for url in re.findall(r"(?:https?:)?//[a-z][^\s\"'<]*", re.sub(r"<pre>.*?</pre>", "", text, flags=re.S)):
        if url != "http://www.w3.org/2000/svg":
            problems.append(f"external address {url}")
    for svg in re.findall(r"<svg.*?</svg>", text, re.S):
        try:
            root = ElementTree.fromstring(svg)
        except ElementTree.ParseError as error:
            problems.append(f"an svg is no XML: {error}")
            continue
        if not root.get("aria-label") or root.get("role") != "img" or not root.get("viewBox"):
            problems.append("an svg without label, role or viewBox")
        if re.search(r'="[^"]*\b(nan|inf)\b', svg):
            problems.append("an svg with a coordinate that is no number")
    for table in re.findall(r"<table.*?</table>", text, re.S):
        if "<thead>" not in table or 'scope="col"' not in table or 'scope="row"' not in table:
            problems.append("a table without header cells")
    return problems, page


def main():
    failed = False
    for path in sys.argv[1:]:
        problems, page = problems_of(open(path, encoding="utf-8", errors="strict").read())
        names = [tag for tag, _ in page.tags]
        print(f"{path.rsplit('/', 1)[-1]}: {len(names)} elements, {names.count('svg')} drawings, {names.count('table')} tables, "
              f"{len(problems)} problems")
        for problem in problems:
            failed = True
            print(f"  {problem}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
