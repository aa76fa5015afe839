import io
import struct
import zlib
from contextlib import suppress

import numpy as np
import pytest
from PIL import Image, ImageCms

from lic import image
from lic.errors import LicError, TooLarge, Unsupported

RGB = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)


def saved(picture, format, **options) -> bytes:
    out = io.BytesIO()
    picture.save(out, format, **options)
    return out.getvalue()


def test_rgb_is_untouched():
    samples, alpha, *metadata = image.to_samples(image.open_bytes(saved(Image.fromarray(RGB), "PNG")))
    assert np.array_equal(samples, RGB)
    assert alpha is None
    assert metadata == [None, None, None]


@pytest.mark.parametrize("mode", ["1", "L", "P"])
def test_modes_that_convert_without_loss(mode):
    picture = Image.fromarray(RGB).convert(mode)
    samples, alpha, *_ = image.to_samples(picture)
    assert np.array_equal(samples, np.asarray(picture.convert("RGB")))
    assert alpha is None


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_opaque_alpha_is_none_and_other_alpha_is_kept(mode):
    picture = Image.fromarray(RGB).convert(mode)
    samples = image.to_samples(picture)
    assert np.array_equal(samples.rgb, np.asarray(picture.convert("RGB")))
    assert samples.alpha is None
    picture.putalpha(Image.fromarray(RGB[..., 0]))
    samples = image.to_samples(picture)
    assert np.array_equal(samples.alpha, RGB[..., 0])
    assert np.array_equal(samples.rgb, np.asarray(picture.convert("RGB")))
    back = image.from_samples(samples)
    assert back.mode == "RGBA"
    assert np.array_equal(np.asarray(back), np.asarray(picture.convert("RGBA")))
    with pytest.raises(LicError, match="BMP cannot hold"):
        image.to_bytes(back, "BMP")


def test_palette_transparency_is_alpha():
    picture = Image.fromarray(RGB).convert("P")
    index = int(np.asarray(picture)[0, 0])
    samples = image.to_samples(image.open_bytes(saved(picture, "PNG", transparency=index)))
    assert np.array_equal(samples.alpha == 0, np.asarray(picture) == index)


def test_colours_that_nobody_sees_follow_their_surroundings():
    rgba = np.zeros((37, 50, 4), np.uint8)
    rgba[5:30, 7:25] = (200, 100, 50, 255)
    rgba[31, 40] = (0, 0, 255, 1)
    filled = image.to_samples(Image.fromarray(rgba)).rgb
    assert np.array_equal(filled[rgba[..., 3] > 0], rgba[rgba[..., 3] > 0][:, :3])
    assert filled[20, 26].tolist() == [200, 100, 50]
    assert np.abs(np.diff(filled.astype(int), axis=1)).mean() < 1
    nothing = image.to_samples(Image.new("RGBA", (3, 2), (9, 9, 9, 0)))
    assert not nothing.rgb.any()
    assert not nothing.alpha.any()


@pytest.mark.parametrize(("mode", "words"), [("I;16", "16-bit"), ("I", "or 32-bit"), ("F", "floating"), ("CMYK", "CMYK"), ("LAB", "Lab")])
def test_other_modes_are_refused_by_name(mode, words):
    with pytest.raises(Unsupported, match=words) as refused:
        image.to_samples(Image.new(mode, (4, 4)))
    assert ("see --convert" in str(refused.value)) == (mode in ("I;16", "CMYK"))  # where that would help


def test_16_bit_png_is_refused():
    with pytest.raises(Unsupported, match="16-bit"):
        image.to_samples(image.open_bytes(saved(Image.fromarray(np.full((4, 4), 700, np.uint16)), "PNG")))


def png_of_16_bit_colour() -> bytes:
    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head, rows = struct.pack(">IIBBBBB", 2, 2, 16, 2, 0, 0, 0), zlib.compress(bytes(2 * (1 + 2 * 6)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def tiff_of_16_bit_colour() -> bytes:
    entries = [(256, 3, 1, 2), (257, 3, 1, 2), (258, 3, 3, 134), (259, 3, 1, 1), (262, 3, 1, 2), (273, 4, 1, 140), (277, 3, 1, 3),
               (278, 3, 1, 2), (279, 4, 1, 24), (284, 3, 1, 1)]  # fmt: skip
    table = struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHII", *entry) for entry in entries) + bytes(4)
    return b"II*\0\x08\0\0\0" + table + struct.pack("<HHH", 16, 16, 16) + bytes(24)


@pytest.mark.parametrize("make", [png_of_16_bit_colour, tiff_of_16_bit_colour, lambda: b"P6 2 2 65535\n" + bytes(24)])
def test_deep_colour_is_refused_where_pillow_would_cut_it(make):
    data = make()
    assert Image.open(io.BytesIO(data)).mode == "RGB"
    with pytest.raises(Unsupported, match="more than 8 bits"):
        image.open_bytes(data)


def test_deep_colour_is_refused_before_it_is_loaded_and_in_later_frames():
    with pytest.raises(Unsupported, match="more than 8 bits"):
        image.to_samples(Image.open(io.BytesIO(png_of_16_bit_colour())))
    second, first = tiff_of_16_bit_colour(), saved(Image.fromarray(RGB), "TIFF")
    ((begin,), (entries,)) = (struct.unpack_from("<I", first, 4), struct.unpack_from("<H", first, *struct.unpack_from("<I", first, 4)))
    link = begin + 2 + 12 * entries  # where the first directory says where the next one is
    shifted = bytearray(second[8:])
    for k, at in ((2, 8), (5, 8)):  # values of these entries are places in the file
        place = 2 + 12 * k + at
        shifted[place : place + 4] = struct.pack("<I", struct.unpack_from("<I", shifted, place)[0] - 8 + len(first))
    pages = image.open_bytes(first[:link] + struct.pack("<I", len(first)) + first[link + 4 :] + bytes(shifted))
    assert image.frame_count(pages) == 2
    with pytest.raises(Unsupported, match="more than 8 bits"):
        list(image.frames(pages))


def test_convert_makes_8_bits_of_what_has_more():
    for data in (png_of_16_bit_colour(), tiff_of_16_bit_colour(), b"P6 2 2 65535\n" + bytes(24)):
        assert image.to_samples(image.open_bytes(data, convert=True), convert=True).rgb.shape == (2, 2, 3)
    deep = np.array([[0, 128, 129, 385, 386, 65406, 65407, 65535]], np.uint16)
    upright = Image.Exif()
    upright[0x0112] = 6
    for format in ("PNG", "TIFF", "PPM"):
        options = {} if format == "PPM" else {"exif": upright}
        read = image.open_bytes(saved(Image.fromarray(deep), format, **options), convert=True)
        rgb = image.to_samples(read, convert=True).rgb.reshape(-1, 3)
        assert (rgb == np.array([0, 0, 1, 1, 2, 254, 255, 255])[:, None]).all()
        assert image.to_samples(read, convert=True).rgb.shape[1] == (8 if format == "PPM" else 1)
    with pytest.raises(Unsupported, match="one is transparent"):
        image.to_samples(image.open_bytes(saved(Image.fromarray(deep), "PNG", transparency=5), convert=True), convert=True)
    for mode in ("I", "F", "LAB"):  # what their numbers mean is not known
        with pytest.raises(Unsupported, match=r"are not kept$"):
            image.to_samples(Image.new(mode, (4, 4)), convert=True)


def grey_profile() -> bytes:
    """An ICC profile of linear grey: header, tag table, white point and curve (ICC.1:2001-04, sections 6.1 to 6.5)."""
    white = b"XYZ \0\0\0\0" + struct.pack(">iii", 0xF6D6, 0x10000, 0xD32D)
    curve = b"curv\0\0\0\0" + struct.pack(">IHH", 1, 256, 0)  # gamma 1, padded
    tags = struct.pack(">I4sII4sII", 2, b"wtpt", 156, len(white), b"kTRC", 156 + len(white), 14)
    body = tags + white + curve
    head = struct.pack(">I4sI4s4s4s", 128 + len(body), b"lcms", 0x02100000, b"mntr", b"GRAY", b"XYZ ") + bytes(12) + b"acsp" + bytes(28)
    return (head + struct.pack(">iii", 0xF6D6, 0x10000, 0xD32D)).ljust(128, b"\0") + body


def test_convert_makes_rgb_of_cmyk_and_of_grey_with_a_profile():
    cyan = image.to_samples(image.open_bytes(saved(Image.new("CMYK", (4, 4), (255, 0, 0, 0)), "JPEG")), convert=True)
    assert cyan.rgb[0, 0].tolist() == [0, 255, 255]
    grey = Image.new("LA", (4, 4), (100, 50))
    grey.info["icc_profile"] = grey_profile()
    samples = image.to_samples(image.open_bytes(saved(grey, "PNG")), convert=True)
    assert samples.profile is None
    assert (samples.alpha == 50).all()
    red, green, blue = samples.rgb[0, 0].tolist()
    assert red == green == blue
    assert red > 110  # of gamma 1: 100 / 255 is brighter than in sRGB


def test_five_and_six_bits_are_not_deep():
    head = struct.pack("<IiiHHIIiiII", 40, 1, 1, 1, 16, 3, 4, 0, 0, 0, 0) + struct.pack("<III", 0xF800, 0x07E0, 0x001F)
    bmp = b"BM" + struct.pack("<IHHI", 14 + len(head) + 4, 0, 0, 14 + len(head)) + head + struct.pack("<HH", 0xF800, 0)
    assert image.to_samples(image.open_bytes(bmp))[0].tolist() == [[[255, 0, 0]]]


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "TIFF", "BMP", "PPM", "GIF", "AVIF", "JPEG2000"])
def test_8_bit_colour_of_every_format_is_read(format):
    assert image.open_bytes(saved(Image.fromarray(RGB), format)).size == (7, 5)


def test_animation_is_refused():
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    data = saved(frames[0], "GIF", save_all=True, append_images=frames[1:])
    with pytest.raises(Unsupported, match="2 frames"):
        image.to_samples(image.open_bytes(data))
    assert [image.to_samples(frame)[0][0, 0].tolist() for frame in image.frames(image.open_bytes(data))] == [[255, 0, 0], [0, 0, 255]]
    with pytest.raises(LicError, match="cannot read frame 2"):
        list(image.frames(image.open_bytes(saved(frames[0], "TIFF", save_all=True, append_images=frames[1:])[:-30])))


def test_exif_orientation_is_applied():
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90 degrees
    samples, *_ = image.to_samples(image.open_bytes(saved(Image.fromarray(RGB), "PNG", exif=exif)))
    assert samples.shape == (7, 5, 3)
    assert np.array_equal(samples, np.rot90(RGB, -1))
    opaque = saved(Image.fromarray(RGB).convert("RGBA"), "PNG", exif=exif)
    assert np.array_equal(image.to_samples(image.open_bytes(opaque))[0], np.rot90(RGB, -1))


def test_exif_that_nobody_can_read_is_no_orientation():
    data = saved(Image.fromarray(RGB), "PNG", exif=b"Exif\0\0garbage!!")
    assert np.array_equal(image.to_samples(image.open_bytes(data))[0], RGB)


def xmp_of(orientation: int) -> bytes:
    return f'<rdf:Description tiff:Orientation="{orientation}" dc:title="é"/>'.encode()


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
def test_metadata_are_there_to_keep_but_for_the_orientation(format):
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "maker"
    exif.get_ifd(0x8769)[0x9003] = "2026:11:29 07:00:00"
    xmp = {"xmp": xmp_of(6)} if format in ("JPEG", "WEBP") else {}
    picture = image.open_bytes(saved(Image.fromarray(RGB), format, exif=exif.tobytes(), **xmp))
    samples = image.to_samples(picture)
    assert samples.rgb.shape == (7, 5, 3)
    for written in ("PNG", "WEBP"):
        back = Image.open(io.BytesIO(image.to_bytes(image.from_samples(samples), written)))
        found = back.getexif()
        assert found[0x010F] == "maker"
        assert found.get(0x0112, 1) == 1
        assert found.get_ifd(0x8769)[0x9003] == "2026:11:29 07:00:00"
        assert set(found) <= {0x010F, 0x0112, 0x8769}
        if xmp:
            assert "é".encode() in back.info["xmp"]
            assert b"Orientation" not in back.info["xmp"]
        assert np.array_equal(image.to_samples(back).rgb, samples.rgb)
    for written in ("PPM", "BMP", "TIFF"):  # these hold none
        back = image.open_bytes(image.to_bytes(image.from_samples(samples), written))
        assert np.array_equal(image.to_samples(back).rgb, samples.rgb)


def test_xmp_that_is_no_text_does_not_go_into_a_png():
    samples = image.Samples(RGB, None, None, xmp=b"\xff\xfe<\x00")
    assert Image.open(io.BytesIO(image.to_bytes(image.from_samples(samples), "WEBP"))).info["xmp"] == samples.xmp
    with pytest.raises(LicError, match="cannot write PNG"):
        image.to_bytes(image.from_samples(samples), "PNG")


@pytest.mark.parametrize("format", ["GIF", "PNG", "WEBP", "TIFF", "AVIF"])
def test_damaged_animations_are_lic_errors(format):
    noise = [Image.fromarray(np.random.default_rng(k).integers(0, 256, (8, 8, 3), dtype=np.uint8)) for k in range(3)]
    data = saved(noise[0], format, save_all=True, append_images=noise[1:])
    for k in range(60):
        cut = data[: len(data) * k // 60]
        flipped = bytearray(data)
        flipped[len(data) * k // 60] ^= 0x41
        for damaged in (cut, bytes(flipped)):
            with suppress(LicError):
                for frame in image.frames(image.open_bytes(damaged)):
                    image.to_samples(frame)


def test_profile_is_kept_and_written():
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    samples = image.to_samples(image.open_bytes(saved(Image.fromarray(RGB), "PNG", icc_profile=profile)))
    assert samples.profile == profile
    back = Image.open(io.BytesIO(image.to_bytes(image.from_samples(samples), "PNG")))
    assert back.info["icc_profile"] == profile
    with pytest.raises(LicError, match="PPM cannot hold"):
        image.to_bytes(image.from_samples(samples), "PPM")
    grey = Image.fromarray(RGB).convert("L")
    assert (
        image.to_samples(image.open_bytes(saved(grey, "PNG", icc_profile=profile))).profile == profile
    )  # an RGB profile fits what it becomes
    of_grey = profile[:16] + b"GRAY" + profile[20:]
    for picture in (grey, grey.convert("LA")):
        with pytest.raises(Unsupported, match="profile for grey"):
            image.to_samples(image.open_bytes(saved(picture, "PNG", icc_profile=of_grey)))


@pytest.mark.parametrize("format", ["PNG", "PPM", "TIFF", "BMP", "WEBP"])
def test_written_formats_are_lossless(format):
    back = Image.open(io.BytesIO(image.to_bytes(Image.fromarray(RGB), format)))
    assert np.array_equal(np.asarray(back.convert("RGB")), RGB)


def test_unreadable_and_oversized_input():
    with pytest.raises(LicError, match="not an image"):
        image.open_bytes(b"hello")
    data = saved(Image.fromarray(RGB), "PNG")
    with pytest.raises(LicError, match="cannot read the image"):
        image.open_bytes(data[:-30])
    with pytest.raises(TooLarge):
        image.open_bytes(data, max_pixels=34)
    with pytest.raises(LicError, match="cannot write WEBP"):
        image.to_bytes(Image.new("RGB", (20000, 1)), "WEBP")
