"""Contact sheets: many pictures with captions, side by side."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from PIL import Image, ImageDraw, ImageFont, ImageOps

COLUMNS, SIDE, GAP, LINE, TEXT = 6, 180, 12, 16, 13  # of the sheet; the last four in pixels


def contact_sheet(pictures: Iterable[tuple[Image.Image, Sequence[str]]]) -> Image.Image:
    """Returns one picture of many, in rows from the top left, each with some lines of text below it.

    Args:
        pictures: RGB images of any size, each with the same number of lines. They are fitted into squares.
    """
    font = ImageFont.load_default(TEXT)
    cells = [_cell(image, lines, font) for image, lines in pictures]
    if not cells:
        cells = [_cell(Image.new("RGB", (1, 1), "white"), ("nothing to show",), font)]
    width, height = cells[0].size
    columns, rows = min(COLUMNS, len(cells)), -(-len(cells) // COLUMNS)
    sheet = Image.new("RGB", (GAP + columns * (width + GAP), GAP + rows * (height + GAP)), "white")
    for i, cell in enumerate(cells):
        sheet.paste(cell, (GAP + i % COLUMNS * (width + GAP), GAP + i // COLUMNS * (height + GAP)))
    return sheet


def _cell(image: Image.Image, lines: Sequence[str], font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> Image.Image:
    """One picture above its lines, each cut to the width from the left: the end of a path says most."""
    cell = Image.new("RGB", (SIDE, SIDE + 4 + LINE * len(lines)), "white")
    shown = ImageOps.contain(image, (SIDE, SIDE))
    cell.paste(shown, ((SIDE - shown.width) // 2, (SIDE - shown.height) // 2))
    draw = ImageDraw.Draw(cell)
    for i, line in enumerate(lines):
        text = " ".join(line.split())
        while draw.textlength(text, font) > SIDE:
            text = "..." + text.removeprefix("...")[1:]
        draw.text((0, SIDE + 4 + LINE * i), text, fill="black", font=font)
    return cell
