"""Laws of fedlit/data/reading.py and preparing.py."""

from __future__ import annotations

import io

import cv2
import nibabel
import numpy as np
import pytest
from PIL import Image

from fedlit.data.preparing import Preparation, resize, resize_codes
from fedlit.data.reading import Picture, read_image, read_mask
from fedlit.errors import BadInput

GREY = np.random.default_rng(0).integers(0, 256, (12, 10), np.uint8)
COLOUR = np.random.default_rng(1).integers(0, 256, (12, 10, 3), np.uint8)
WIDE = np.random.default_rng(2).integers(0, 65536, (12, 10), np.uint16)
VOLUME = np.random.default_rng(3).integers(-500, 900, (7, 6, 5)).astype(np.int16)  # x, y, z


def save_nifti(path, array, *, zooms=(0.5, 0.75, 3.0), flip=False):
    affine = np.diag([-zooms[0] if flip else zooms[0], *zooms[1:], 1.0])
    nibabel.save(nibabel.Nifti1Image(array, affine), path)


@pytest.mark.parametrize(
    ("suffix", "array"),
    [(suffix, array) for suffix in ("png", "tif", "tiff", "npy") for array in (GREY, COLOUR, WIDE)]
    + [("bmp", GREY), ("bmp", COLOUR)],
)
def test_lossless_pictures_come_back_bit_for_bit(tmp_path, suffix, array):
    path = tmp_path / f"picture.{suffix}"
    np.save(path, array) if suffix == "npy" else Image.fromarray(array).save(path)
    picture = read_image(path)
    assert np.array_equal(picture.array, array.reshape(1, 12, 10, -1))
    assert (picture.array.dtype, picture.spacing, picture.is_volume) == (array.dtype, None, False)


@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize("channels", [3, 4])
def test_wide_colour_keeps_sixteen_bits(tmp_path, suffix, channels):
    wide = np.random.default_rng(0).integers(0, 65536, (5, 4, channels), np.uint16)
    wide[..., 3:] = 65535
    path = tmp_path / f"picture.{suffix}"
    cv2.imwrite(str(path), wide)
    assert np.array_equal(read_image(path).array[0], wide[..., 2::-1])


@pytest.mark.parametrize("suffix", ["jpg", "jpeg", "JPG"])
def test_jpeg_is_read_and_turned_as_its_tag_says(tmp_path, suffix):
    smooth = cv2.resize(GREY, (40, 48))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    stream = io.BytesIO()
    Image.fromarray(smooth).save(stream, "JPEG", exif=exif, quality=100)
    (tmp_path / f"a.{suffix}").write_bytes(stream.getvalue())
    array = read_image(tmp_path / f"a.{suffix}").array[0, ..., 0]
    assert np.abs(array.astype(int) - np.rot90(smooth, -1)).max() < 10


def test_float_tiff(tmp_path):
    Image.fromarray(GREY.astype(np.float32) / 3).save(tmp_path / "a.tif")
    assert np.array_equal(read_image(tmp_path / "a.tif").array[0, ..., 0], GREY.astype(np.float32) / 3)


@pytest.mark.parametrize("suffix", ["nii", "nii.gz"])
def test_the_slices_of_a_nifti_volume_lie_along_its_third_axis(tmp_path, suffix):
    save_nifti(tmp_path / f"a.{suffix}", VOLUME)
    picture = read_image(tmp_path / f"a.{suffix}")
    assert picture.array.shape == (5, 6, 7, 1)
    assert picture.array[4, 3, 2, 0] == VOLUME[2, 3, 4]
    assert (picture.spacing, picture.is_volume, picture.orientation) == ((3.0, 0.75, 0.5), True, "RAS")


def test_nifti_units_and_scaling(tmp_path):
    image = nibabel.Nifti1Image(VOLUME, np.diag([500.0, 750, 3000, 1]))
    image.header.set_xyzt_units("micron")
    image.header.set_slope_inter(2, 1)
    nibabel.save(image, tmp_path / "a.nii")
    picture = read_image(tmp_path / "a.nii")
    assert np.allclose(picture.spacing, (3, 0.75, 0.5)) and np.allclose(picture.affine, np.diag([0.5, 0.75, 3, 1]))
    assert np.array_equal(picture.array[..., 0].T, np.asanyarray(nibabel.load(tmp_path / "a.nii").dataobj))


@pytest.mark.parametrize(
    ("shape", "expected", "is_volume"),
    [
        ((4, 5), (1, 4, 5, 1), False),
        ((4, 5, 3), (1, 4, 5, 3), False),
        ((4, 5, 1), (1, 4, 5, 1), False),
        ((2, 4, 5), (2, 4, 5, 1), True),
        ((2, 4, 5, 3), (2, 4, 5, 3), True),
    ],
)
def test_shapes_of_npy(tmp_path, shape, expected, is_volume):
    np.save(tmp_path / "a.npy", np.random.default_rng(0).random(shape, np.float32))
    picture = read_image(tmp_path / "a.npy")
    assert (picture.array.shape, picture.is_volume) == (expected, is_volume)


def bytes_of(array, kind, **options):
    stream = io.BytesIO()
    np.save(stream, array) if kind == "npy" else Image.fromarray(array).save(stream, kind, **options)
    return stream.getvalue()


@pytest.mark.parametrize("kind", ["png", "jpeg", "tiff", "bmp", "npy"])
@pytest.mark.parametrize("keep", [0.0, 0.1, 0.6, 0.99])
@pytest.mark.parametrize("read", [read_image, read_mask])
def test_a_truncated_file_is_refused(tmp_path, kind, keep, read):
    data = bytes_of(np.tile(GREY, (8, 8)), kind)
    path = tmp_path / f"cut.{kind}"
    path.write_bytes(data[: int(len(data) * keep)])
    with pytest.raises(BadInput, match=r"cut\.\w+: unreadable or truncated .*replace the file"):
        read(path)


@pytest.mark.parametrize("suffix", ["nii", "nii.gz"])
@pytest.mark.parametrize("keep", [0.0, 0.2, 0.8])
def test_a_truncated_volume_is_refused(tmp_path, suffix, keep):
    path = tmp_path / f"cut.{suffix}"
    save_nifti(path, np.random.default_rng(0).integers(0, 30000, (20, 20, 20)).astype(np.int16))
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * keep)])
    with pytest.raises(BadInput, match="unreadable or truncated"):
        read_image(path)


def test_a_damaged_byte_in_a_png_is_noticed(tmp_path):
    data = bytearray(bytes_of(np.tile(GREY, (8, 8)), "png"))
    data[len(data) // 2] ^= 1
    (tmp_path / "a.png").write_bytes(bytes(data))
    with pytest.raises(BadInput, match="unreadable or truncated"):
        read_image(tmp_path / "a.png")


def test_a_pickle_is_never_opened(tmp_path):
    np.save(tmp_path / "a.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(BadInput, match="unreadable"):
        read_image(tmp_path / "a.npy")


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (np.full((4, 4), np.nan, np.float32), "16 values are NaN"),
        (np.array([[0, np.inf]], np.float32), "1 values are NaN or infinite"),
        (np.full((4, 4), 9, np.uint8), r"every pixel is \[9\]"),
        (np.tile(np.array([9, 1, 2], np.uint8), (4, 4, 1)), r"every pixel is \[9, 1, 2\]"),
        (np.full((3, 4, 4), 2.5), r"every pixel is \[2.5\]"),
        (np.ones((4, 4), bool), "integers or floats"),
        (np.ones((4, 4), complex), "integers or floats"),
        (np.ones((0, 4)), "no pixels"),
        (np.ones(4), "allowed are"),
        (np.ones((2, 3, 4, 5)), "allowed are"),
    ],
)
def test_images_without_content_are_refused(tmp_path, array, expected):
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(BadInput, match=expected):
        read_image(tmp_path / "a.npy")


def test_other_refusals(tmp_path):
    (tmp_path / "a.dcm").write_bytes(b"x")
    pages = [Image.fromarray(GREY)] * 2
    pages[0].save(tmp_path / "pages.tif", save_all=True, append_images=pages[1:])
    Image.fromarray(np.dstack([COLOUR, GREY])).save(tmp_path / "clear.png")
    Image.fromarray(COLOUR).save(tmp_path / "colour.png")
    np.save(tmp_path / "half.npy", np.full((2, 2), 0.5))
    save_nifti(tmp_path / "four.nii", np.zeros((3, 3, 3, 2), np.int16))
    for read, name, expected in (
        (read_image, "a.dcm", "unknown format"),
        (read_image, "pages.tif", "2 pages"),
        (read_image, "clear.png", "transparent"),
        (read_mask, "colour.png", "in colour"),
        (read_mask, "half.npy", "no whole numbers"),
        (read_image, "four.nii", "three axes"),
        (read_image, "none.png", "unreadable"),
    ):
        with pytest.raises(BadInput, match=expected):
            read(tmp_path / name)


def test_masks_of_all_kinds_give_the_same_integers(tmp_path):
    labels = GREY % 3
    Image.fromarray(labels).save(tmp_path / "grey.png")
    Image.fromarray(np.dstack([labels] * 3)).save(tmp_path / "rgb.png")
    Image.fromarray(np.dstack([labels] * 3 + [np.full_like(labels, 255)])).save(tmp_path / "rgba.png")
    palette = Image.fromarray(labels).convert("P")
    palette.putdata(labels.ravel().tolist())
    palette.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    palette.save(tmp_path / "palette.png")
    np.save(tmp_path / "float.npy", labels.astype(np.float64))
    for name in ("grey.png", "rgb.png", "rgba.png", "palette.png", "float.npy"):
        mask = read_mask(tmp_path / name).array
        assert mask.dtype.kind in "ui" and np.array_equal(mask, labels[None]), name
    Image.fromarray(labels > 0).save(tmp_path / "bits.png")
    assert np.array_equal(read_mask(tmp_path / "bits.png").array[0], labels > 0)
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / "empty.png")
    assert not read_mask(tmp_path / "empty.png").array.any()


# preparing


def prepared(array, **settings):
    return Preparation((0, 255), **settings).image(Picture(np.asarray(array).reshape(1, *np.shape(array), 1)))[
        0, ..., 0
    ]


def test_eight_bits_stay_as_they_are():
    assert prepared(GREY).dtype == np.uint8
    assert np.array_equal(prepared(GREY), GREY)
    assert np.array_equal(prepared(GREY, intensity="range"), GREY)


def test_intensity_maps_to_the_unit_range():
    line = np.arange(1001, dtype=np.int16)[None]
    assert np.array_equal(prepared(WIDE, intensity="range"), WIDE)
    assert np.allclose(prepared(line, intensity="minmax") / 65535, line / 1000, atol=1e-5)
    for intensity in ("auto", "percentile"):
        assert np.allclose(prepared(line, intensity=intensity) / 65535, np.clip((line - 5) / 990, 0, 1), atol=1e-5)
    assert np.allclose(prepared(line / 1000, intensity="range") / 65535, line / 1000, atol=1e-5)


def test_a_few_bright_pixels_are_not_cut_away():
    sparse = np.zeros((100, 100), np.float32)
    sparse[0, :9] = 5
    assert np.array_equal(prepared(sparse) == 65535, sparse == 5)


@pytest.mark.parametrize("array", [VOLUME[0], GREY * 1.5])
def test_range_refuses_what_lies_outside(array):
    with pytest.raises(BadInput, match=r"data\.intensity=percentile"):
        prepared(array, intensity="range")


def test_channels():
    colour = Picture(COLOUR[None])
    grey = Preparation((0,), channels=1).image(colour)[0, ..., 0]
    assert np.abs(grey.astype(int) - cv2.cvtColor(COLOUR, cv2.COLOR_RGB2GRAY)).max() <= 1
    three = Preparation((0,), channels=3).image(Picture(GREY[None, ..., None]))
    assert np.array_equal(three[0], np.dstack([GREY] * 3))
    assert np.array_equal(Preparation((0,), channels=1).image(Picture(three))[0, ..., 0], GREY)


def test_codes_are_places_in_the_values():
    values = np.array([255, 7, 0])[GREY % 3]
    codes = Preparation((255, 0, 7)).codes(Picture(values[None]))
    assert np.array_equal(codes[0], np.array([0, 2, 1])[GREY % 3])


def test_values_outside_of_the_label_map_are_named():
    with pytest.raises(BadInput, match=r"mask values 1, 2, 3, .* and 246 more are outside .* have 0, 255"):
        Preparation((0, 255)).codes(Picture(np.arange(256).reshape(1, 16, 16)))


def test_shrinking_a_mask_takes_the_majority_not_the_nearest():
    codes = np.zeros((8, 8), np.uint8)
    codes[::2, ::2] = 1  # a quarter of every new pixel, and all of the nearest ones
    assert not resize_codes(codes, (4, 4)).any()
    codes[::2] = 2
    codes[1::2, ::2] = 2
    assert (resize_codes(codes, (4, 4)) == 2).all()


def test_resizing_keeps_constant_masks_and_whole_factors():
    codes = (GREY % 4).repeat(3, 0).repeat(5, 1)
    assert np.array_equal(resize_codes(codes, GREY.shape), GREY % 4)
    assert np.array_equal(resize_codes(np.full((3, 3), 2, np.uint8), (7, 2)), np.full((7, 2), 2))


def test_resizing_an_image_averages_where_it_shrinks_and_keeps_its_mean():
    smooth = cv2.resize(GREY.astype(np.float32), (64, 64))
    for size in ((32, 32), (16, 64), (32, 96), (128, 128), (8, 200)):
        assert resize(smooth, size).shape == size
        assert abs(resize(smooth, size).mean() - smooth.mean()) < 2
    assert np.allclose(resize(smooth, (32, 32)), smooth.reshape(32, 2, 32, 2).mean((1, 3)), atol=1e-3)


def test_a_mask_must_lie_on_its_image(tmp_path):
    save_nifti(tmp_path / "image.nii", VOLUME)
    save_nifti(tmp_path / "mask.nii", (VOLUME > 0).astype(np.uint8), flip=True)
    with pytest.raises(BadInput, match=r"point to RAS, .* to LAS"):
        Preparation((0, 1)).case(tmp_path / "image.nii", tmp_path / "mask.nii")
    np.save(tmp_path / "mask.npy", (VOLUME > 0).T.astype(np.uint8))
    images, codes, _ = Preparation((0, 1)).case(tmp_path / "image.nii", tmp_path / "mask.npy")
    assert np.array_equal(codes, (VOLUME > 0).T) and images.dtype == np.uint16
    np.save(tmp_path / "mask.npy", (VOLUME > 0).astype(np.uint8))
    with pytest.raises(BadInput, match="differ in size, 5x6x7 and 7x6x5"):
        Preparation((0, 1)).case(tmp_path / "image.nii", tmp_path / "mask.npy")


def test_jpeg_masks_are_explained(tmp_path):
    Image.fromarray(GREY).save(tmp_path / "image.png")
    Image.fromarray(GREY).save(tmp_path / "mask.jpg")
    with pytest.raises(BadInput, match=r"mask\.jpg: mask values .*JPEG changes values, use PNG"):
        Preparation((0, 255)).case(tmp_path / "image.png", tmp_path / "mask.jpg")
