"""Laws of fedlit/data/cache.py, storage.py and pack.py."""

from __future__ import annotations

import errno
import json
import logging
import multiprocessing
import os
import pickle
import shutil
import subprocess

import numpy as np
import pytest
from PIL import Image

from fedlit.data import cache as caching
from fedlit.data.cache import Files, file_hashes, packed
from fedlit.data.pack import JoinedPack, Pack, open_pack
from fedlit.data.preparing import Preparation
from fedlit.errors import BadInput
from fedlit.storage import cache_folder

BINARY = Preparation((0, 255))


@pytest.fixture
def pictures(tmp_path):
    """Six pictures of 16 px with masks: content key -> files."""
    random = np.random.default_rng(0)
    files = {}
    for number in range(6):
        image, mask = tmp_path / f"image{number}.png", tmp_path / f"mask{number}.png"
        Image.fromarray(random.integers(0, 256, (16, 16), np.uint8)).save(image)
        Image.fromarray(random.integers(0, 2, (16, 16), np.uint8) * 255).save(mask)
        digests = file_hashes([image, mask], root=tmp_path, cache=tmp_path / "cache")
        files[f"{digests[image]}:{digests[mask]}"] = Files(image, mask, f"sites.csv line {number + 2}")
    return files


@pytest.fixture
def no_decoding(monkeypatch):
    def refuse(*_):
        raise AssertionError("decoded again")

    return lambda: monkeypatch.setattr(Preparation, "case", refuse)


def test_a_pack_holds_what_the_files_hold(pictures, tmp_path):
    pack, places, problems = packed(pictures, BINARY, cache=tmp_path / "cache")
    assert not problems and len(pack) == 6
    for key, files in pictures.items():
        row = np.array([places[key].first])
        image = np.asarray(Image.open(files.image)).astype(np.float32) / np.float32(255)
        assert np.array_equal(pack.images(row)[0, ..., 0], image)
        assert np.array_equal(pack.codes(row)[0], np.asarray(Image.open(files.mask)) == 255)


def test_nothing_is_decoded_or_read_twice(pictures, tmp_path, no_decoding, monkeypatch):
    first, places, _ = packed(pictures, BINARY, cache=tmp_path / "cache")
    open_pack.cache_clear()
    no_decoding()
    monkeypatch.setattr(caching, "_sha256", lambda path: pytest.fail(f"{path} was read again"))
    again, places_again, _ = packed(pictures, BINARY, cache=tmp_path / "cache")
    paths = [files.image for files in pictures.values()]
    assert file_hashes(paths, root=tmp_path, cache=tmp_path / "cache")
    assert places == places_again
    assert np.array_equal(first.images(np.arange(6)), again.images(np.arange(6)))


def test_names_and_order_of_files_do_not_matter(pictures, tmp_path, no_decoding):
    packed(pictures, BINARY, cache=tmp_path / "cache")
    no_decoding()
    renamed = {key: Files(tmp_path / "x", tmp_path / "y", "z") for key in reversed(pictures)}
    assert not packed(renamed, BINARY, cache=tmp_path / "cache")[2]


def test_another_preparation_is_another_pack(pictures, tmp_path):
    packed(pictures, BINARY, cache=tmp_path / "cache")
    pack, _, _ = packed(pictures, Preparation((0, 255), size=(8, 8)), cache=tmp_path / "cache")
    assert pack.sizes.tolist() == [[8, 8]] * 6


def test_a_changed_file_is_read_again(tmp_path):
    path, cache = tmp_path / "a", tmp_path / "cache"
    path.write_bytes(b"1")
    before = file_hashes([path], root=tmp_path, cache=cache)
    path.write_bytes(b"2")
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))
    assert before != file_hashes([path], root=tmp_path, cache=cache)


def test_a_file_in_its_place_is_read_again_also_with_its_size_and_time(tmp_path):
    """As copies and archives that bring their times along."""
    path, cache = tmp_path / "a", tmp_path / "cache"
    path.write_bytes(b"1")
    os.utime(path, ns=(0, 0))
    before = file_hashes([path], root=tmp_path, cache=cache)
    (tmp_path / "b").write_bytes(b"2")
    os.utime(tmp_path / "b", ns=(0, 0))
    os.replace(tmp_path / "b", path)
    assert before != file_hashes([path], root=tmp_path, cache=cache)


def test_problems_name_their_rows_and_leave_no_pack(pictures, tmp_path):
    keys = list(pictures)
    pictures[keys[1]].image.write_bytes(b"no picture")
    Image.fromarray(np.full((16, 16), 3, np.uint8)).save(pictures[keys[4]].mask)
    pack, _, problems = packed(pictures, BINARY, cache=tmp_path / "cache")
    assert pack is None
    found = sorted(problems)
    assert found[0].startswith("sites.csv line 3:") and "image1.png: unreadable" in found[0]
    assert found[1].startswith("sites.csv line 6:") and "mask values 3" in found[1]
    assert not [path for path in (tmp_path / "cache/packs").iterdir() if path.suffix != ".lock"]


def test_problems_come_in_the_order_of_the_rows(pictures, tmp_path):
    for each in pictures.values():
        each.image.write_bytes(b"no picture")
    _, _, problems = packed(pictures, BINARY, cache=tmp_path / "cache")
    assert [problem.partition(":")[0] for problem in problems] == [f"sites.csv line {line}" for line in range(2, 8)]


def test_wide_and_narrow_pictures_share_a_pack_without_loss(pictures, tmp_path):
    key = max(pictures)  # the last one decoded
    Image.fromarray(np.random.default_rng(0).integers(0, 65536, (16, 16), np.uint16)).save(pictures[key].image)
    narrow, places, _ = packed({key: pictures[key] for key in sorted(pictures)[:-1]}, BINARY, cache=tmp_path / "cache")
    wide, wide_places, _ = packed(pictures, BINARY, cache=tmp_path / "cache")
    for key, place in places.items():
        assert np.array_equal(narrow.images(np.array([place.first])), wide.images(np.array([wide_places[key].first])))


@pytest.mark.parametrize("name", ["pixels.bin", "index.json"])
def test_a_damaged_pack_is_decoded_again_and_said_so(pictures, tmp_path, name, caplog):
    packed(pictures, BINARY, cache=tmp_path / "cache")
    (path,) = (tmp_path / "cache/packs").glob(f"*/{name}")
    path.write_bytes(path.read_bytes()[:-7])
    open_pack.cache_clear()
    with caplog.at_level(logging.WARNING):
        pack, _, problems = packed(pictures, BINARY, cache=tmp_path / "cache")
    assert len(pack) == 6 and not problems
    assert "damaged" in caplog.text


def test_a_damaged_index_of_hashes_is_only_slower(pictures, tmp_path):
    (index,) = (tmp_path / "cache/hashes").glob("*.json")
    index.write_text("{")
    assert len(file_hashes([files.image for files in pictures.values()], root=tmp_path, cache=tmp_path / "cache")) == 6
    assert len(json.loads(index.read_text())) == 6


def test_what_a_killed_process_left_is_swept_away(pictures, tmp_path):
    packed(pictures, BINARY, cache=tmp_path / "cache")
    (folder,) = (path for path in (tmp_path / "cache/packs").iterdir() if path.is_dir())
    partial = folder.with_suffix(".partial")
    os.rename(folder, partial)
    (partial / "index.json").unlink()
    open_pack.cache_clear()
    assert len(packed(pictures, BINARY, cache=tmp_path / "cache")[0]) == 6
    assert not partial.exists()


def _build(pictures, cache, started, num_decoded):
    original = Preparation.case

    def count(*arguments):
        with num_decoded.get_lock():
            num_decoded.value += 1
        return original(*arguments)

    Preparation.case = count
    started.wait()
    assert len(packed(pictures, BINARY, cache=cache)[0]) == 6


def test_two_processes_decode_once(pictures, tmp_path):
    context = multiprocessing.get_context("spawn")
    started, num_decoded = context.Barrier(2), context.Value("i", 0)
    arguments = (pictures, tmp_path / "cache", started, num_decoded)
    processes = [context.Process(target=_build, args=arguments) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0]
    assert num_decoded.value == 6


def test_only_the_owner_enters_the_cache(pictures, tmp_path):
    assert (tmp_path / "cache").stat().st_mode & 0o777 == 0o700


def test_the_default_place(monkeypatch, tmp_path):
    monkeypatch.setenv("FEDLIT_CACHE", str(tmp_path / "own"))
    assert cache_folder() == tmp_path / "own"
    monkeypatch.delenv("FEDLIT_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "fedlit"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "fedlit"


def test_a_full_disk_is_one_clear_error(pictures, tmp_path, monkeypatch):
    def full(stream):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(BadInput, match=r"cannot be written \(No space.*MB free\); make room .*FEDLIT_CACHE"):
        packed(pictures, BINARY, cache=tmp_path / "cache")
    monkeypatch.undo()
    assert len(packed(pictures, BINARY, cache=tmp_path / "cache")[0]) == 6


def test_a_disk_that_is_really_full(pictures, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = shutil.which("mount")
    if (
        not mount
        or subprocess.run([mount, "-t", "tmpfs", "-o", "size=4k", "none", disk], capture_output=True).returncode
    ):
        pytest.skip("needs the right to mount a small tmpfs")
    try:
        with pytest.raises(BadInput, match="cannot be written"):
            packed(pictures, BINARY, cache=disk / "cache")
    finally:
        subprocess.run(["umount", disk], check=True)


def test_a_cache_that_is_a_file_is_one_clear_error(pictures, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput, match="cannot be written"):
        packed(pictures, BINARY, cache=tmp_path / "file")


# pack


def two_packs():
    random = np.random.default_rng(0)
    images = [random.integers(0, 256, (4, 6, 5, 2), np.uint8), random.integers(0, 65536, (3, 6, 5, 2), np.uint16)]
    codes = [random.integers(0, 3, one.shape[:3], np.uint8) for one in images]
    packs = [Pack(i, c, sizes=np.tile((6, 5), (len(i), 1)), channels=2) for i, c in zip(images, codes, strict=True)]
    expected = np.concatenate([images[0] / np.float32(255), images[1] / np.float32(65535)])
    return packs, expected.astype(np.float32), np.concatenate(codes)


def test_joined_packs_are_one_after_another():
    packs, images, codes = two_packs()
    joined = JoinedPack(packs)
    for rows in ([0], [6, 0, 3, 4], [5, 5], [1, 2]):
        rows = np.array(rows)
        for pack, chosen in ((joined, rows), joined.portable(rows), pickle.loads(pickle.dumps(joined.portable(rows)))):
            assert np.array_equal(pack.images(chosen), images[rows])
            assert np.array_equal(pack.codes(chosen), codes[rows])


def test_different_sizes_in_one_pack():
    images = [np.random.default_rng(0).integers(0, 256, size, np.uint8) for size in ((4, 4, 1), (2, 6, 1), (4, 4, 1))]
    flat = np.concatenate([image.ravel() for image in images])
    pack = Pack(flat, flat, sizes=np.array([(4, 4), (2, 6), (4, 4)]), channels=1)
    assert np.array_equal(pack.images(np.array([1]))[0], images[1] / np.float32(255))
    both, rows = pack.portable(np.array([2, 0]))
    assert np.array_equal(both.codes(rows), np.stack([images[2], images[0]])[..., 0])


def test_a_pack_on_disk_travels_as_its_name(pictures, tmp_path):
    pack, _, _ = packed(pictures, BINARY, cache=tmp_path / "cache")
    assert len(pickle.dumps(pack)) < 500
    assert pickle.loads(pickle.dumps(pack)) is pack
