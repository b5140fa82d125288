"""What is white in an image file: every depth, and what is refused because it does not say so."""

import io
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from sapag_fast import data

SHADES = np.linspace(0, 1, 256, dtype=np.float32).reshape(16, 16)


def png(array, colour, bits, channels=1):
    """A PNG by hand: Pillow writes no colour of 16 bits."""
    rows = array.astype(">u2" if bits == 16 else "u1")
    raw = b"".join(b"\0" + row.tobytes() for row in rows)
    header = struct.pack(">IIBBBBB", array.shape[1] // channels, array.shape[0], bits, colour, 0, 0, 0)

    def chunk(name, content):
        crc = zlib.crc32(name + content)
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", crc)

    parts = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(raw)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


def levels(white, dtype):
    return np.rint(SHADES * white).astype(dtype)


def image(array, **options):
    def save(path):
        Image.fromarray(array).save(path, **options)

    return save


def converted(mode, **options):
    def save(path):
        Image.fromarray(levels(255, np.uint8)).convert(mode).save(path, **options)

    return save


def written(content):
    return lambda path: path.write_bytes(content)


def tiff(array, bits, photometric=1, sample_format=1):
    """A grey TIFF of one strip, by hand."""
    raw = array.astype(array.dtype.newbyteorder("<")).tobytes()
    height, width = array.shape
    tags = ((256, width), (257, height), (258, bits), (259, 1), (262, photometric))
    tags += ((273, 8), (277, 1), (278, height), (279, len(raw)), (339, sample_format))
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    directory = struct.pack("<H", len(tags)) + entries + struct.pack("<I", 0)
    return b"II*\0" + struct.pack("<I", 8 + len(raw)) + raw + directory


RGB16 = np.repeat(levels(65535, np.uint16), 3, 1)
DEPTHS = {
    "8 bits.png": (image(levels(255, np.uint8)), 1 / 255),
    "16 bits.png": (image(levels(65535, np.uint16)), 1e-6),
    "16 bits.tif": (image(levels(65535, np.uint16)), 1e-6),
    "16 bits from another byte order.tif": (image(levels(65535, ">u2")), 1e-6),
    "16 bits of colour.png": (written(png(RGB16, 2, 16, 3)), 1 / 255),
    "16 bits with alpha.png": (
        written(
            png(np.stack([levels(65535, np.uint16), np.full((16, 16), 65535)], -1).reshape(16, 32), 4, 16, 2)
        ),
        1 / 255,
    ),
    "float.tif": (image(SHADES), 1e-6),
    "white is zero.tif": (written(tiff(levels(65535, np.uint16)[::-1, ::-1], 16, photometric=0)), 1e-6),
    "16 bits.pgm": (written(b"P5 16 16 65535\n" + levels(65535, ">u2").tobytes()), 1e-6),
    "10 bits.pgm": (written(b"P5 16 16 1023\n" + levels(1023, ">u2").tobytes()), 1e-3),
    "palette.png": (converted("P"), 1 / 255),
    "palette.gif": (converted("P"), 1 / 255),
    "alpha.png": (converted("LA"), 1 / 255),
    "colour and alpha.png": (converted("RGBA"), 1 / 255),
    "colour.bmp": (converted("RGB"), 1 / 255),
    "print.tif": (converted("CMYK"), 2 / 255),
    "print.jpg": (converted("CMYK", quality=100, subsampling=0), 4 / 255),
}


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", DEPTHS)
def test_shades_of_every_depth(name, channels, tmp_path):
    save, close = DEPTHS[name]
    save(tmp_path / name)
    found = data.read_images(tmp_path / name, (channels, 16, 16))
    assert found.shape == (1, channels, 16, 16)
    assert found.dtype == torch.float32
    expected = torch.from_numpy(SHADES).expand(1, channels, 16, 16)
    torch.testing.assert_close(found, expected, rtol=0, atol=close)


def test_one_bit(tmp_path):
    bits = np.indices((16, 16)).sum(0) % 2 == 0
    for name in ("a.png", "a.tif", "a.bmp"):
        Image.fromarray(bits).save(tmp_path / name)
        assert np.array_equal(data.read_images(tmp_path / name, (1, 16, 16))[0, 0].numpy(), bits)


def test_two_and_four_bits(tmp_path):
    for bits, packed in ((2, 4), (4, 2)):
        white = 2**bits - 1
        values = np.arange(64).reshape(8, 8) % (white + 1)
        rows = np.zeros((8, 8 // packed), int)
        for at in range(packed):
            rows = (rows << bits) | values[:, at::packed]
        path = tmp_path / f"{bits}.png"
        content = png(rows, 0, 8).replace(
            struct.pack(">IIBB", 8 // packed, 8, 8, 0), struct.pack(">IIBB", 8, 8, bits, 0)
        )
        header = content[12:29]
        path.write_bytes(content[:29] + struct.pack(">I", zlib.crc32(header)) + content[33:])
        found = data.read_images(path, (1, 8, 8))[0, 0].numpy() * white
        assert np.allclose(found, values, atol=1e-5)


def test_deep_grey_is_resampled_and_turned_as_bytes_are(tmp_path):
    array = np.tile(SHADES, (2, 3))
    Image.fromarray(levels(255, np.uint8)).save(tmp_path / "small8.png")
    Image.fromarray(levels(65535, np.uint16)).save(tmp_path / "small16.png")
    Image.fromarray(np.rint(array * 255).astype(np.uint8)).save(tmp_path / "wide8.png")
    Image.fromarray(np.rint(array * 65535).astype(np.uint16)).save(tmp_path / "wide16.png")
    for name in ("small", "wide"):
        for shape in ((1, 7, 9), (3, 40, 40)):
            plain, deep = (data.read_images(tmp_path / f"{name}{bits}.png", shape) for bits in (8, 16))
            torch.testing.assert_close(deep, plain, rtol=0, atol=1.5 / 255)
            assert deep.min() >= 0
            assert deep.max() <= 1
    turned = Image.Exif()
    turned[0x0112] = 6
    for bits, dtype in ((8, np.uint8), (16, np.uint16)):
        Image.fromarray(levels(2**bits - 1, dtype)).save(tmp_path / f"turned{bits}.png", exif=turned)
    plain, deep = (data.read_images(tmp_path / f"turned{bits}.png", (1, 16, 16)) for bits in (8, 16))
    torch.testing.assert_close(deep, plain, rtol=0, atol=1 / 255)


NO_WHITE = {
    "32 bits.tif": (
        image(levels(65535, np.int32)),
        "mode I with values from 0 to 65535; expected 8 or 16 bits",
    ),
    "signed.tif": (written(tiff(levels(32767, np.int16), 16, sample_format=2)), "expected 8 or 16 bits"),
    "signed bytes.tif": (written(tiff(levels(127, np.int8), 8, sample_format=2)), "expected 8 or 16 bits"),
    "floats to 255.tif": (image(SHADES * 255), r"mode F with values from 0.0 to 255.0; expected 0 to 1"),
    "below zero.tif": (image(SHADES - 0.5), r"mode F with values from -0.5 to 0.5; expected 0 to 1"),
    "nan.tif": (
        image(np.where(SHADES > 0.5, np.nan, SHADES).astype(np.float32)),
        "mode F with values from nan",
    ),
    "infinite.tif": (image(np.where(SHADES > 0.5, np.inf, SHADES).astype(np.float32)), "to inf"),
    "program.png": (written(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"), "not an image file"),
}


@pytest.mark.parametrize("name", NO_WHITE)
def test_values_without_a_white_are_refused(name, tmp_path):
    save, words = NO_WHITE[name]
    save(tmp_path / name)
    with pytest.raises(ValueError, match=words) as caught:
        data.read_images(tmp_path / name, (1, 16, 16))
    assert name in str(caught.value)


def test_class_folders_know_deep_grey(tmp_path):
    (tmp_path / "c").mkdir()
    for name in ("16 bits.png", "16 bits.tif", "float.tif"):
        DEPTHS[name][0](tmp_path / "c" / name)
    images, _ = data.read_class_folders(tmp_path)
    assert images.shape == (3, 1, 16, 16)
    torch.testing.assert_close(images[0], images[1], rtol=0, atol=1e-5)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_picture_that_unpacks_to_gigabytes(tmp_path):
    header = struct.pack(">IIBBBBB", 12000, 12000, 8, 2, 0, 0, 0)
    content = io.BytesIO(png(np.zeros((1, 1)), 2, 8)).getvalue()
    crc = struct.pack(">I", zlib.crc32(b"IHDR" + header))
    (tmp_path / "bomb.png").write_bytes(content[:16] + header + crc + content[33:])
    with pytest.raises(ValueError, match=r"bomb\.png: .* bytes that unpack to 432000000"):
        data.read_images(tmp_path / "bomb.png", (3, 8, 8))
