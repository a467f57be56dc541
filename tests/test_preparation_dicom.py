"""DICOM: slices in the order of their places, masks on their grid, and nobody's name."""

import numpy as np
import pytest

from fedlit.data.reading import read_image, read_mask
from tests.preparation_sources import (
    check_and_plan,
    description,
    noise,
    prepare,
    rows_of,
    save,
    save_nifti,
    square,
    tree_hashes,
)

pydicom = pytest.importorskip("pydicom")
NAME = "Muster^Erika"


def dataset(pixels: np.ndarray, *, patient: str = "4711", series: str = "1.2.3", **fields):
    """A file as a scanner writes it, uncompressed."""
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

    found = Dataset()
    found.file_meta = FileMetaDataset()
    found.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    found.file_meta.MediaStorageSOPClassUID = found.SOPClassUID = CTImageStorage
    found.file_meta.MediaStorageSOPInstanceUID = found.SOPInstanceUID = generate_uid()
    found.PatientName, found.PatientID, found.PatientBirthDate = NAME, patient, "19700101"
    found.InstitutionName, found.SeriesInstanceUID, found.Modality = "General Hospital", series, "CT"
    found.Rows, found.Columns = pixels.shape
    found.SamplesPerPixel, found.PhotometricInterpretation = 1, "MONOCHROME2"
    found.BitsAllocated, found.BitsStored, found.HighBit, found.PixelRepresentation = 16, 16, 15, 0
    found.PixelData = pixels.astype("<u2").tobytes()
    for key, value in fields.items():
        setattr(found, key, value)
    return found


def volume(folder, seed: int = 0, *, shape=(4, 12, 10), patient: str = "4711", **fields) -> np.ndarray:
    """Slices whose names are not in the order of their places. Returns [D, H, W], from feet to head."""
    pixels = noise(*shape, seed=seed).astype(np.uint16)
    folder.mkdir(parents=True)
    for number, plane in enumerate(pixels):
        place = {"ImageOrientationPatient": [1, 0, 0, 0, 1, 0], "ImagePositionPatient": [5.0, 6.0, 3.0 * number]}
        scale = {"RescaleSlope": 2, "RescaleIntercept": -1024, "PixelSpacing": [0.5, 0.4]}
        written = dataset(plane, patient=patient, **{**place, **scale, **fields})
        written.save_as(folder / f"IM{(7 * number) % 4}", enforce_file_format=True)
    return pixels


def mask_affine() -> np.ndarray:
    affine = np.diag([-0.4, -0.5, 3.0, 1.0])
    affine[:3, 3] = (-5, -6, 0)
    return affine


def ward(root, num: int = 4):
    for number in range(num):
        volume(root / "ward" / f"case{number}", seed=number, patient=str(number))
        save_nifti(root / "ward" / f"case{number}_mask.nii.gz", square(4, 12, 10, value=1), affine=mask_affine())
    return root


def test_slices_become_a_volume_in_the_order_of_their_places(tmp_path, capsys):
    source = ward(tmp_path / "source")
    assert prepare("dicom", source, tmp_path / "out") == 0
    told = capsys.readouterr().out
    names = "InstitutionName, MediaStorageSOPInstanceUID, PatientBirthDate, PatientID, PatientName"
    assert f"identifying fields were dropped: {names}" in told
    assert "text burned into the pixels is neither looked for nor removed" in told
    row = rows_of(tmp_path / "out")[0]
    stored = read_image(tmp_path / "out" / row["image"])
    assert np.array_equal(stored.array[..., 0], noise(4, 12, 10, seed=0).astype(int) * 2 - 1024)
    assert row["spacing"] == "3 0.5 0.4" and stored.orientation == "LPS"
    assert np.array_equal(read_mask(tmp_path / "out" / row["mask"]).array, square(4, 12, 10))
    check_and_plan(tmp_path / "out", capsys)


def test_nothing_that_names_a_patient_is_passed_on(tmp_path):
    import gzip

    assert prepare("dicom", ward(tmp_path / "source"), tmp_path / "out") == 0
    assert description(tmp_path / "out")["dropped_fields"]["PatientName"] == 4
    for path, content in tree_hashes(tmp_path / "out").items():
        plain = gzip.decompress(content) if path.endswith(".gz") else content
        for secret in (b"Muster", b"19700101", b"General Hospital", b"1.2.826"):
            assert secret not in plain, (path, secret)


def test_a_mask_in_another_direction_is_turned_and_one_elsewhere_is_refused(tmp_path):
    source = ward(tmp_path / "source")
    mask = np.zeros((4, 12, 10), np.uint8)
    mask[1, 2:5, 3:9] = 1
    turned = mask_affine()
    turned[:, 0] *= -1
    turned[0, 3] = -5 - 0.4 * 9
    save_nifti(source / "ward" / "case0_mask.nii.gz", mask[..., ::-1], affine=turned)
    far = mask_affine()
    far[2, 3] = 9
    save_nifti(source / "ward" / "case1_mask.nii.gz", mask, affine=far)
    assert prepare("dicom", source, tmp_path / "out") == 3
    row = rows_of(tmp_path / "out")[0]
    assert np.array_equal(read_mask(tmp_path / "out" / row["mask"]).array, mask * 255)
    (skipped,) = description(tmp_path / "out")["skipped"]
    assert skipped["what"] == "ward case1" and "its voxels lie elsewhere" in skipped["reason"]


def test_one_patient_in_two_folders_is_one_group(tmp_path):
    for number in range(4):
        volume(
            tmp_path / "source" / "ward" / f"case{number}", seed=number, patient="one" if number < 2 else str(number)
        )
        path = tmp_path / "source" / "ward" / f"case{number}_mask.nii.gz"
        save_nifti(path, square(4, 12, 10, value=1), affine=mask_affine())
    assert prepare("dicom", tmp_path / "source", tmp_path / "out") == 0
    groups = [row["group"] for row in rows_of(tmp_path / "out")]
    assert groups == ["case0", "case0", "case2", "case3"]


def test_single_pictures(tmp_path, capsys):
    root = tmp_path / "source" / "ward"
    for number in range(4):
        pixels = noise(12, 10, seed=number).astype(np.uint16) * 16
        kind = "MONOCHROME1" if number == 0 else "MONOCHROME2"
        root.mkdir(parents=True, exist_ok=True)
        found = dataset(pixels, patient=str(number), PhotometricInterpretation=kind, ImagerPixelSpacing=[0.2, 0.1],
                        BurnedInAnnotation="YES" if number == 3 else "NO")  # fmt: skip
        found.save_as(root / f"film{number}.dcm", enforce_file_format=True)
        save(root / f"film{number}_mask.png", square(12, 10))
    assert prepare("dicom", tmp_path / "source", tmp_path / "out") == 0
    assert "some files say that text is burned into their pixels" in capsys.readouterr().out
    rows = rows_of(tmp_path / "out")
    pixels = noise(12, 10, seed=0).astype(np.uint16) * 16
    stored = [read_image(tmp_path / "out" / row["image"]).array[0, ..., 0] for row in rows]
    assert np.array_equal(stored[0], pixels.max() - pixels)
    assert np.array_equal(stored[1], noise(12, 10, seed=1).astype(np.uint16) * 16)
    assert rows[0]["spacing"] == "0.2 0.1"
    check_and_plan(tmp_path / "out", capsys)


def break_pixels(folder):
    path = folder / "IM0"
    found = pydicom.dcmread(path)
    del found.PixelData
    found.save_as(path)


def break_syntax(folder):
    from pydicom.uid import JPEG2000Lossless

    found = pydicom.dcmread(folder / "IM0")
    found.file_meta.TransferSyntaxUID = JPEG2000Lossless
    found.PixelData = pydicom.encaps.encapsulate([b"\xff\x4f\xff\x51 no codec reads this"])
    found["PixelData"].VR = "OB"
    found.save_as(folder / "IM0")


def break_series(folder):
    found = pydicom.dcmread(folder / "IM0")
    found.SeriesInstanceUID = "1.2.4"
    found.save_as(folder / "IM0")


def break_place(folder):
    found = pydicom.dcmread(folder / "IM0")
    found.ImagePositionPatient = pydicom.dcmread(folder / "IM1").ImagePositionPatient
    found.save_as(folder / "IM0")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (break_pixels, "has no pixel data (CT)"),
        (break_syntax, "the pixels cannot be decoded (JPEG 2000 Image Compression (Lossless Only))"),
        (break_series, "the files are of several series"),
        (break_place, "two slices at the same place"),
        (lambda folder: (folder / "IM2").unlink(), "is one missing?"),
        (lambda folder: (folder / "IM1").write_bytes(b"no DICOM at all"), "no DICOM file"),
    ],
)
def test_cases_that_cannot_be_used_are_named(damage, message, tmp_path):
    source = ward(tmp_path / "source")
    damage(source / "ward" / "case0")
    assert prepare("dicom", source, tmp_path / "out") == 3
    (skipped,) = description(tmp_path / "out")["skipped"]
    assert message in skipped["reason"]
    assert len(rows_of(tmp_path / "out")) == 3


def test_without_pydicom_the_extra_is_named(tmp_path, monkeypatch, capsys):
    import sys

    monkeypatch.setitem(sys.modules, "pydicom", None)
    assert prepare("dicom", ward_of_text(tmp_path / "source"), tmp_path / "out") == 2
    assert "install fedlit with the extra `dicom`" in capsys.readouterr().err


def ward_of_text(root):
    (root / "ward" / "case").mkdir(parents=True)
    (root / "ward" / "case" / "1.dcm").write_text("")
    return root
