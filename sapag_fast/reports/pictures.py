"""PNG files of image tensors: one image, or a labelled grid of many. Written at once or not at all."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sapag_fast.files.output import replacing
from sapag_fast.runtime.extras import needs

with needs("data", "pictures"):
    from PIL import Image, ImageDraw, ImageFont

TILE = 64
"""About the side of an image in the grid, in pixels; larger ones are shown as they are."""
COLUMNS = 12
GAP, MARGIN, CAPTION = 2, 16, 110


@dataclass(frozen=True)
class Row:
    """A captioned line of the grid; its images are [C, H, W] in [0, 1], None leaves a place free."""

    caption: str
    images: Sequence[Tensor | None]


def is_image(shape: Sequence[int]) -> bool:
    """Whether an input of this shape can be shown: 1xHxW or 3xHxW."""
    return len(shape) == 3 and shape[0] in (1, 3)


def to_picture(image: Tensor) -> Image.Image:
    """Make an 8-bit picture of ``[1, H, W]`` or ``[3, H, W]`` in [0, 1].

    Values outside are clamped, non-finite ones black.
    """
    pixels = torch.nan_to_num(image.detach().float().cpu(), nan=0.0, posinf=0.0, neginf=0.0).clamp(0, 1)
    array = (pixels * 255).round().to(torch.uint8).numpy()
    return Image.fromarray(
        array[0] if array.shape[0] == 1 else np.ascontiguousarray(array.transpose(1, 2, 0))
    )


def save_picture(path: Path, picture: Image.Image) -> None:
    """Write a PNG file, whole or not at all."""
    with replacing(path, durable=False) as temporary:
        picture.save(temporary, format="PNG")


def grid(groups: Sequence[Sequence[Row]]) -> Image.Image:
    """Lay out groups of rows, column by column on a sheet that is about as wide as high.

    The rows of a group share their columns and break together when they are long.
    """
    blocks = [_block(_broken(rows)) for rows in groups]
    across = max(1, round(math.sqrt(len(blocks))))
    down = -(-len(blocks) // across)
    columns = [blocks[at : at + down] for at in range(0, len(blocks), down or 1)]
    widths = [max(block.width for block in column) for column in columns]
    heights = [sum(block.height + MARGIN for block in column) for column in columns]
    sheet = Image.new("RGB", (sum(widths) + MARGIN * len(widths), max(heights, default=MARGIN)), "white")
    left = 0
    for column, width in zip(columns, widths, strict=True):
        top = 0
        for block in column:
            sheet.paste(block, (left, top))
            top += block.height + MARGIN
        left += width + MARGIN
    return sheet


def _block(lines: Sequence[Row]) -> Image.Image:
    tiles = [[None if image is None else _tile(image) for image in line.images] for line in lines]
    side = max((max(tile.size) for line in tiles for tile in line if tile), default=TILE) + GAP
    columns = max((len(line) for line in tiles), default=0)
    block = Image.new("RGB", (CAPTION + columns * side, len(lines) * side), "white")
    draw, font = ImageDraw.Draw(block), ImageFont.load_default()
    for row, (line, images) in enumerate(zip(lines, tiles, strict=True)):
        draw.multiline_text((GAP, row * side + side // 2), line.caption, fill="black", font=font, anchor="lm")
        for column, tile in enumerate(images):
            if tile:
                block.paste(tile, (CAPTION + column * side, row * side))
    return block


def _broken(rows: Sequence[Row]) -> list[Row]:
    length = max((len(row.images) for row in rows), default=0)
    return [
        Row(row.caption, row.images[at : at + COLUMNS]) for at in range(0, length, COLUMNS) for row in rows
    ]


def _tile(image: Tensor) -> Image.Image:
    picture = to_picture(image)
    factor = max(1, round(TILE / max(picture.size)))
    return picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)
