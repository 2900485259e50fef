"""Every kind of image file becomes pixels by its stated rule."""

from __future__ import annotations

import struct
import zlib
from dataclasses import replace
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from shards import images
from shards.images import BadImage, Target, normalise, read_header

GREY, COLOUR = ("grey", 1), ("colour", 3)


def target(height=4, width=4, channels=3, crop="center", resize=True):
    return Target(channels, height, width, crop, resize)


def png(width, height, depth, kind, rows, *chunks):
    """A PNG written by hand, for what Pillow does not write."""

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0))
    body = chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows)))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunk(*pair) for pair in chunks) + body + chunk(b"IEND", b"")


def pixels_of(data, **wanted):
    return normalise(data, target(**wanted))[0]


def test_colour_stays_as_it_is(picture, encoded):
    rgb = picture(0, 5, 7)
    assert (pixels_of(encoded(rgb), height=5, width=7, resize=False) == rgb.transpose(2, 0, 1)).all()


def test_grey_is_repeated_and_colour_takes_the_luma(encoded):
    assert pixels_of(encoded(np.full((4, 4), 77, np.uint8)))[:, 0, 0].tolist() == [77, 77, 77]
    orange = np.broadcast_to(np.array([250, 100, 10], np.uint8), (4, 4, 3))
    assert pixels_of(encoded(np.array(orange)), channels=1)[0, 0, 0] == round(0.299 * 250 + 0.587 * 100 + 0.114 * 10)


VALUES = [0, 255, 256, 0x12FF, 0x8000, 0xFFFF]


def files_of_16_bits(encoded, values):
    """One row of these values, in every way that 16 bits are stored: grey, colour, with alpha, both byte orders."""
    count, wide = len(values), np.array([values], np.uint16)
    grey = png(count, 1, 16, 0, [struct.pack(f">{count}H", *values)])
    colour = png(count, 1, 16, 2, [b"".join(struct.pack(">3H", *(value,) * 3) for value in values)])
    opaque = png(count, 1, 16, 6, [b"".join(struct.pack(">4H", *(value,) * 3, 0xFFFF) for value in values)])
    veiled = png(count, 1, 16, 4, [b"".join(struct.pack(">2H", value, 0xFFFF) for value in values)])
    pgm = f"P5 {count} 1 65535\n".encode() + wide.astype(">u2").tobytes()
    return [
        grey,
        colour,
        opaque,
        veiled,
        pgm,
        *(encoded(Image.fromarray(wide), "TIFF", **how) for how in ({}, DEFLATE)),
    ]


DEFLATE = {"compression": "tiff_adobe_deflate"}


@pytest.mark.parametrize("depth", [8, 12, 16])
def test_16_bits_become_the_high_ones_of_those_in_use(encoded, depth):
    values = [value >> (16 - depth) for value in VALUES]
    for data in files_of_16_bits(encoded, values):
        assert read_header(data).peak == max(values)
        pixels, _ = normalise(data, Target(1, 1, len(values), "center", False, depth))
        assert pixels[0, 0].tolist() == [value >> (depth - 8) for value in values]


def test_what_has_8_bits_has_no_peak(picture, encoded):
    for kind in ("PNG", "JPEG", "TIFF", "GIF", "PPM"):
        assert read_header(encoded(picture(0), kind)).peak is None


def test_16_bits_keep_their_alpha_and_their_rotation(encoded):
    see_through = png(2, 1, 16, 6, [struct.pack(">8H", 0, 0, 0, 0xFFFF, 0, 0, 0, 0)])
    assert pixels_of(see_through, height=1, width=2, resize=False)[0, 0].tolist() == [0, 255]
    grey = png(2, 1, 16, 4, [struct.pack(">4H", 0x12FF, 0xFFFF, 0, 0)])
    assert pixels_of(grey, height=1, width=2, channels=1, resize=False)[0, 0].tolist() == [0x12, 255]
    key = png(2, 1, 16, 0, [struct.pack(">2H", 513, 512)], (b"tRNS", struct.pack(">H", 512)))
    assert pixels_of(key, height=1, width=2, resize=False)[0, 0].tolist() == [2, 255]
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown 90 degrees clockwise
    for kind in ("PNG", "TIFF"):
        data = encoded(Image.fromarray(np.array([[0, 0x8000]], np.uint16)), kind, exif=exif)
        header = read_header(data)
        assert (header.width, header.height) == (1, 2)
        assert pixels_of(data, height=2, width=1, channels=1, resize=False)[0].tolist() == [[0], [128]]


def test_colour_and_alpha_show_in_the_header(picture, encoded):
    rgb, grey = Image.fromarray(picture(0)), Image.fromarray(picture(0, channels=1))
    greys = Image.new("P", (4, 4))
    greys.putpalette([0, 0, 0, 90, 90, 90])
    cases = [(rgb, False, False), (grey, True, False), (rgb.convert("RGBA"), False, True), (greys, True, False)]
    cases += [(grey.convert("LA"), True, True), (rgb.quantize(8), False, False)]
    files = [(encoded(image), is_grey, has_alpha) for image, is_grey, has_alpha in cases]
    for kind, channels, is_grey, has_alpha in (
        (0, 1, True, False),
        (2, 3, False, False),
        (4, 2, True, True),
        (6, 4, False, True),
    ):
        files.append((png(1, 1, 16, kind, [bytes(2 * channels)]), is_grey, has_alpha))
    for data, is_grey, has_alpha in files:
        for header in (read_header(data), normalise(data, target())[1]):
            assert (header.grey, header.alpha) == (is_grey, has_alpha)


def test_more_than_16_bits_have_no_rule(encoded):
    with pytest.raises(BadImage, match="32-bit"):
        pixels_of(encoded(Image.fromarray(np.array([[0, 70_000]], np.int32)), "TIFF"))
    with pytest.raises(BadImage, match="mode F has no rule"):
        pixels_of(encoded(Image.fromarray(np.zeros((2, 2), np.float32)), "TIFF"))


def test_alpha_is_composited_over_white(encoded):
    half_black = encoded(Image.new("RGBA", (4, 4), (0, 0, 0, 128)))
    assert pixels_of(half_black)[:, 0, 0].tolist() == [127, 127, 127]
    assert pixels_of(encoded(Image.new("LA", (4, 4), (40, 0))), channels=1)[0, 0, 0] == 255
    see_through_red = png(1, 1, 8, 2, [b"\xff\0\0"], (b"tRNS", struct.pack(">3H", 255, 0, 0)))
    assert pixels_of(see_through_red, height=1, width=1)[:, 0, 0].tolist() == [255, 255, 255]


def test_a_palette_becomes_its_colours(encoded):
    image = Image.new("P", (4, 4), 1)
    image.putpalette([0, 0, 0, 10, 200, 30])
    assert pixels_of(encoded(image))[:, 0, 0].tolist() == [10, 200, 30]
    assert pixels_of(encoded(image, transparency=1))[:, 0, 0].tolist() == [255, 255, 255]


def test_cmyk_becomes_rgb(encoded):
    jpeg = encoded(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG", quality=95)
    red = pixels_of(jpeg)[:, 2, 2].astype(int)
    assert abs(red - [255, 0, 0]).max() < 8


def test_exif_rotation_is_applied(encoded):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: show it 90 degrees clockwise
    left_half_white = np.zeros((8, 16), np.uint8)
    left_half_white[:, :8] = 255
    for kind in ("JPEG", "PNG", "TIFF"):
        data = encoded(left_half_white, kind, exif=exif)
        header = read_header(data)
        assert (header.width, header.height) == (8, 16)
        upright = pixels_of(data, height=16, width=8, channels=1, resize=False)[0]
        assert (upright[1, 4] > 250, upright[14, 4] < 5) == (True, True)


def test_only_the_first_frame_counts(encoded):
    frames = [Image.new("L", (4, 4), 10), Image.new("L", (4, 4), 200)]
    gif = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert pixels_of(gif, channels=1)[0, 0, 0] == 10


def test_downscaling_averages_boxes(picture, encoded):
    grey = picture(1, 12, 12, 1)
    boxes = grey.reshape(4, 3, 4, 3).mean((1, 3))
    assert abs(pixels_of(encoded(grey), channels=1)[0] - boxes).max() <= 1


def test_upscaling_is_bicubic(picture, encoded):
    grey = picture(2, 4, 4, 1)
    wanted = np.asarray(Image.fromarray(grey).resize((9, 9), Image.Resampling.BICUBIC))
    assert (pixels_of(encoded(grey), height=9, width=9, channels=1)[0] == wanted).all()


def test_crops():
    wide = np.zeros((4, 8), np.uint8)
    wide[:, 2:6] = 100  # the central square
    assert (pixels_of(wide, channels=1)[0] == 100).all()
    assert pixels_of(wide, channels=1, crop="squash")[0, 0].tolist() == [0, 100, 100, 0]
    padded = pixels_of(np.full((4, 8), 100, np.uint8), channels=1, crop="pad")[0]
    assert padded[:, 0].tolist() == [0, 100, 100, 0]


def test_each_axis_goes_by_its_own_direction(picture):
    grey = picture(3, 4, 12, 1)
    wanted = Image.fromarray(grey).resize((6, 4), Image.Resampling.BOX).resize((6, 6), Image.Resampling.BICUBIC)
    assert (pixels_of(grey, height=6, width=6, channels=1, crop="squash")[0] == np.asarray(wanted)).all()


def test_the_original_size_is_kept(picture, encoded):
    _, original = normalise(encoded(picture(4, 5, 9)), target())
    assert (original.width, original.height) == (9, 5)


def test_another_shape_is_bad_where_none_is_resized(picture, encoded):
    with pytest.raises(BadImage, match="wrong shape: 7x5, the set is 4x4"):
        pixels_of(encoded(picture(5, 5, 7)), resize=False)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP"])
def test_a_truncated_file_is_bad(picture, encoded, kind):
    data = encoded(picture(6, 64, 64), kind)
    with pytest.raises(BadImage):
        pixels_of(data[: len(data) * 2 // 3])


@pytest.mark.parametrize("data", [b"", b"not an image", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"])
def test_what_is_no_image_is_bad(data):
    with pytest.raises(BadImage, match="not an image"):
        pixels_of(data)
    with pytest.raises(BadImage, match="not an image"):
        read_header(data)


def test_a_bomb_is_refused_before_it_is_decoded(monkeypatch):
    """20,000 x 20,000 pixels in a few bytes; and a side that is too long."""
    monkeypatch.setattr(Image.Image, "load", lambda image: pytest.fail("decoded"))
    for width, height in ((20_000, 20_000), (40_000, 10), (60_000, 60_000)):
        bomb = png(width, height, 8, 2, [b""])
        for read in (read_header, pixels_of):
            with pytest.raises(BadImage, match="too large"):
                read(bomb)


def test_a_file_of_too_many_bytes_is_refused(monkeypatch, picture, encoded):
    monkeypatch.setattr(images, "MAX_FILE_BYTES", 50)
    with pytest.raises(BadImage, match=r"too large: .* bytes, at most 50"):
        pixels_of(encoded(picture(7)))


def test_a_large_photograph_is_allowed_by_an_option(encoded):
    data = encoded(np.zeros((1200, 1000), np.uint8))
    with pytest.raises(BadImage, match=r"1000x1200 are 1\.2 megapixels, at most 1: --max-megapixels allows up to 178"):
        read_header(data, 1)
    assert read_header(data, 1.2).width == 1000
    small = Target(1, 8, 8, "center", True, max_megapixels=1)
    with pytest.raises(BadImage, match="--max-megapixels"):
        normalise(data, small)
    assert normalise(data, replace(small, max_megapixels=2))[0].shape == (1, 8, 8)


def test_several_frames_are_counted():
    frames = [Image.fromarray(np.full((8, 8), value, np.uint8)) for value in (0, 255)]
    buffer = BytesIO()
    frames[0].save(buffer, "TIFF", save_all=True, append_images=frames[1:])
    assert read_header(buffer.getvalue()).frames == 2
    pixels, _ = normalise(buffer.getvalue(), Target(1, 8, 8, "center", False))
    assert not pixels.any()
