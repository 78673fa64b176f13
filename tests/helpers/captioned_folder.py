"""A folder of captioned pictures, in each layout that an image folder may have."""

import csv
import json
from pathlib import Path

import numpy as np
from PIL import Image

LAYOUTS = ("files", "metadata.jsonl", "metadata.csv")
COLOURS = {"red": (220, 30, 30), "green": (30, 160, 60), "blue": (40, 70, 200)}
WORDS = (
    "a {} square", "ein Quadrat: {}", "квадрат, {}", "正方形 {}", "مربع {}",
    "चौकोर {}", "🟥 {} 👩🏿‍🚒", "cafe\u0301 {}", "{} \u2028 {}",
)  # fmt: skip
"""Captions in several scripts; the accent is not in normal form C."""
LONG = "a {} square, " + "very " * 10_000 + "long"
MISSING, EMPTY = 7, 11
"""Every 7th picture has no caption, every 11th of the others an empty one."""


def captions_of(number: int) -> tuple[str, ...] | None:
    """Returns the captions of a picture, or None if it has no caption."""
    colour = list(COLOURS)[number % 3]
    if number % MISSING == 0:
        return None
    if number % EMPTY == 0:
        return ("",)
    if number == 1:
        return (LONG.format(colour),)
    first = number % len(WORDS)
    words = [WORDS[(first + i) % len(WORDS)] for i in range(1 + number % 3)]
    return tuple(word.format(colour, colour) for word in words)


def name_of(number: int) -> str:
    """Returns the path of a picture: each second one is in a sub-folder."""
    return f"{'日本 ü/' * (number % 2)}{number:03}.png"


def captioned_folder(root: Path, layout: str, num: int = 500) -> dict[str, tuple]:
    """Writes pictures and their captions; returns the captions by name.

    `metadata.csv` holds one caption per picture, the other layouts hold all.
    """
    known: dict[str, tuple] = {}
    rows = []
    for number in range(num):
        name = name_of(number)
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.full((8, 8, 3), list(COLOURS.values())[number % 3], np.uint8)
        Image.fromarray(pixels).save(path)
        texts = captions_of(number)
        if layout == "metadata.csv" and texts is not None:
            texts = texts[:1]
        known[name] = texts or ("",)
        if texts is None:
            continue
        if layout == "files":
            end = ".caption" if number % 5 == 0 else ".txt"
            bom = "\ufeff" * (number % 2)
            text = bom + ("\r\n", "\n\n", "\r")[number % 3].join((*texts, ""))
            path.with_suffix(end).write_bytes(text.encode())
        else:
            value = texts if len(texts) > 1 else texts[0]
            rows.append({"width": 8, "file_name": name, "text": value})
    if layout == "metadata.jsonl":
        lines = [json.dumps(row, ensure_ascii=i % 2 == 0) for i, row in enumerate(rows)]
        (root / layout).write_text("\n".join(lines), encoding="utf-8-sig")
    elif layout == "metadata.csv":
        with open(root / layout, "w", encoding="utf-8-sig", newline="") as file:
            writer = csv.DictWriter(file, ["width", "file_name", "text"])
            writer.writeheader()
            writer.writerows(rows)
    return known
