"""Escape text that is data for the language of an output: Markdown and CSV.

`printable` of `mlpbench.errors` serves the terminal and figures. Jinja escapes for HTML, and `json` writes ASCII alone.
"""

import re
from typing import Any

import pandas as pd

from mlpbench.errors import printable

_MARKDOWN = {
    "\\": "\\\\",
    "`": "\\`",
    "*": "\\*",
    "[": "\\[",
    "]": "\\]",
    "~": "\\~",
    "|": "\\|",
    # GitHub reads text between dollar signs as mathematics, and @NAME as a person.
    "$": "\\$",
    "@": "&#64;",
    "&": "&amp;",
    "<": "&lt;",
    ">": "&gt;",
}
# A line that begins so would be a heading, an item of a list, a rule, or the line below a heading.
_BLOCK = re.compile(r"^( *)(#+(?=\s|$)|[+-](?=\s|$)|[=-]+(?=[\s=-]*$)|\d+(?=[.)](?:\s|$)))")
# GitHub makes links of bare addresses.
_LINK = re.compile(r"://|\bwww\.", re.IGNORECASE)
# An underscore inside a word has no meaning in Markdown, and names of the project are full of them.
_UNDERSCORE = re.compile(r"(?<![^\W_])_|_(?![^\W_])")

_FORMULA = ("=", "+", "-", "@")


def printable_lines(text: str) -> str:
    """Return the text with escapes for control characters, on as many lines as before."""
    return "\n".join(map(printable, text.split("\n")))


class Markdown(str):
    """Hold text that is Markdown already."""

    __slots__ = ()


def _on_one_line(text: str) -> str:
    return " ".join(text.splitlines())


def markdown(value: object) -> Markdown:
    r"""Return a value as text of Markdown on one line: no tag, link, image, emphasis, code, mathematics or table cell.

    >>> print(markdown("<b>1 | 2</b> in num_threads of [x](y)"))
    &lt;b&gt;1 \| 2&lt;/b&gt; in num_threads of \[x\](y)
    """
    if isinstance(value, Markdown):
        return value
    text = "".join(_MARKDOWN.get(character, character) for character in printable(_on_one_line(str(value))))
    text = _UNDERSCORE.sub(r"\\_", text)
    text = _LINK.sub(lambda match: match[0].replace(":", "&#58;").replace(".", "&#46;"), text)
    text = _BLOCK.sub(_without_block, text)
    # Four spaces at the beginning of a line would make it code.
    return Markdown(f"&#32;{text[1:]}" if text.startswith(" ") else text)


def _without_block(match: "re.Match[str]") -> str:
    indent, mark = match[1], match[2]
    return f"{indent}{mark}\\" if mark[0].isdecimal() else f"{indent}\\{mark}"


def code(text: str) -> Markdown:
    """Return a text as a code span of Markdown, with more backticks around it than there are inside.

    >>> print(code("a `b` c"))
    ``a `b` c``
    """
    text = printable(_on_one_line(text))
    fence = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    pad = " " if text[:1] in {"`", " ", ""} or text[-1:] in {"`", " "} else ""
    return Markdown(f"{fence}{pad}{text}{pad}{fence}")


def csv_cell(value: Any) -> Any:
    """Return a value for a cell of a CSV file: a text that a spreadsheet would compute begins with an apostrophe.

    Numbers stay numbers.

    >>> csv_cell("=1+1"), csv_cell(-1.5), csv_cell("eager")
    ("'=1+1", -1.5, 'eager')
    """
    if not isinstance(value, str):
        return value
    text = printable_lines(value)
    # A sign alone is no formula, and `=` stands for equal bits.
    return f"'{text}" if text.lstrip().startswith(_FORMULA) and len(text.strip()) > 1 else text


def csv(frame: pd.DataFrame) -> str:
    """Return a frame as CSV, with the numbers in full and texts that no spreadsheet computes."""
    texts = frame.astype(object).map(lambda value: csv_cell(_plain(value)))
    # Numbers keep the type of their column, which decides how they are written.
    columns = {
        name: frame[name] if pd.api.types.is_numeric_dtype(frame[name]) else texts[name] for name in frame.columns
    }
    content: str = pd.DataFrame(columns).rename(columns=csv_cell).to_csv(index=False)
    return content


def _plain(value: Any) -> Any:
    """Return a number or a missing value as it is, and everything else as text."""
    return value if value is None or isinstance(value, bool | int | float) else str(value)
