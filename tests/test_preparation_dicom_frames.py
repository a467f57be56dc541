"""DICOM with several frames a file, and DICOM SEG: frames become slices at their places, segments classes by label."""

import numpy as np
import pytest

from fedlit.data.reading import read_image, read_mask
from tests.preparation_sources import description, noise, prepare, rows_of, save_nifti, square
from tests.test_preparation_dicom import NAME, dataset, mask_affine, volume

pydicom = pytest.importorskip("pydicom")
ORDER = (2, 0, 3, 1)  # of frames in a file: not that of their places
STEP = 3.0


def items(**fields):
    """A sequence of one item."""
    from pydicom.dataset import Dataset
    from pydicom.sequence import Sequence

    item = Dataset()
    for name, value in fields.items():
        setattr(item, name, value)
    return Sequence([item])


def group(**fields):
    return items(**fields)[0]


def enhanced(path, seed: int, *, shape=(4, 12, 10), patient: str = "4711", **fields) -> str:
    """All slices in one file, as an enhanced CT has them. Returns its SOPInstanceUID."""
    from pydicom.sequence import Sequence
    from pydicom.uid import EnhancedCTImageStorage

    pixels = noise(*shape, seed=seed).astype(np.uint16)
    found = dataset(pixels[0], patient=patient, **fields)
    found.SOPClassUID = found.file_meta.MediaStorageSOPClassUID = EnhancedCTImageStorage
    found.NumberOfFrames = len(pixels)
    found.SharedFunctionalGroupsSequence = items(
        PixelMeasuresSequence=items(PixelSpacing=[0.5, 0.4], SliceThickness=STEP),
        PlaneOrientationSequence=items(ImageOrientationPatient=[1, 0, 0, 0, 1, 0]),
        PixelValueTransformationSequence=items(RescaleSlope=2, RescaleIntercept=-1024, RescaleType="HU"),
    )
    found.PerFrameFunctionalGroupsSequence = Sequence(
        [
            group(PlanePositionSequence=items(ImagePositionPatient=[5.0, 6.0, STEP * ORDER[n]]))
            for n in range(len(pixels))
        ]
    )
    found.PixelData = pixels[list(ORDER)].tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    found.save_as(path, enforce_file_format=True)
    return str(found.SOPInstanceUID)


def group_of(segment: int, index: int, by: str, uids):
    """The functional groups of a frame of a segmentation, on the slice `index`."""
    from pydicom.sequence import Sequence

    own = group(SegmentIdentificationSequence=items(ReferencedSegmentNumber=segment))
    if by == "place":
        own.PlanePositionSequence = items(ImagePositionPatient=[5.0, 6.0, STEP * index])
        return own
    source = group(ReferencedSOPInstanceUID=uids[index] if len(uids) > 1 else uids[0])
    if len(uids) == 1:
        source.ReferencedFrameNumber = ORDER.index(index) + 1
    own.DerivationImageSequence = items(SourceImageSequence=Sequence([source]))
    return own


def segmentation(path, drawn: dict[str, np.ndarray], *, by: str = "place", uids=(), **fields) -> None:
    """A binary DICOM SEG of label -> bool [D, H, W]; frames without foreground are left out, as tools do. `by` is what
    says where a frame belongs: its place, or the slice that it was drawn on, one of `uids` or a frame of the only one.
    """
    from pydicom.pixels import pack_bits
    from pydicom.sequence import Sequence
    from pydicom.uid import SegmentationStorage

    shape = next(iter(drawn.values())).shape[1:]
    found = dataset(np.zeros(shape, np.uint16), series="1.2.9")
    found.SOPClassUID = found.file_meta.MediaStorageSOPClassUID = SegmentationStorage
    found.Modality, found.SegmentationType, found.SeriesDescription = "SEG", "BINARY", "by Dr. Who"
    found.BitsAllocated = found.BitsStored = 1
    found.HighBit = 0
    found.SegmentSequence = Sequence(
        [
            group(SegmentNumber=number, SegmentLabel=label, SegmentAlgorithmType="MANUAL")
            for number, label in enumerate(drawn, 1)
        ]
    )
    found.SharedFunctionalGroupsSequence = items(
        PixelMeasuresSequence=items(PixelSpacing=[0.5, 0.4]),
        PlaneOrientationSequence=items(ImageOrientationPatient=[1, 0, 0, 0, 1, 0]),
    )
    groups, planes = [], []
    for number, mask in enumerate(drawn.values(), 1):
        for index in np.flatnonzero(mask.any(axis=(1, 2))).tolist():
            groups.append(group_of(number, index, by, uids))
            planes.append(mask[index])
    found.NumberOfFrames = len(planes)
    found.PerFrameFunctionalGroupsSequence = Sequence(groups)
    found.PixelData = pack_bits(np.array(planes, np.uint8))
    for key, value in fields.items():
        setattr(found, key, value)
    found.save_as(path, enforce_file_format=True)


def liver_and_lesion() -> tuple[np.ndarray, np.ndarray]:
    """bool [4, 12, 10] each, which do not overlap; nothing on the last slice."""
    liver, lesion = np.zeros((2, 4, 12, 10), bool)
    liver[:3, 2:9, 1:8] = True
    lesion[1, 4:6, 3:5] = True
    return liver & ~lesion, lesion


def uids_of(folder) -> list[str]:
    """Of the slices of a folder, from feet to head."""
    files = [pydicom.dcmread(path, stop_before_pixels=True) for path in folder.iterdir()]
    return [str(each.SOPInstanceUID) for each in sorted(files, key=lambda each: float(each.ImagePositionPatient[2]))]


def test_one_file_of_frames_is_the_volume_of_its_slices(tmp_path, capsys):
    """However the slices are stored, and however the mask is, the same is written."""
    source = tmp_path / "source" / "ward"
    liver, lesion = liver_and_lesion()
    values = np.where(lesion, 2, np.where(liver, 1, 0)).astype(np.uint8)
    for number in range(3):
        enhanced(source / f"case{number}.dcm", number, patient=str(number))
        save_nifti(source / f"case{number}_mask.nii.gz", values, affine=mask_affine())
        volume(tmp_path / "apart" / "ward" / f"case{number}", number, patient=str(number))
        segmentation(tmp_path / "apart" / "ward" / f"case{number}_mask.dcm", {"Lesion (all)": lesion, "Liver": liver})
    words = ("--foreground", "Lesion_all=2", "--foreground", "Liver=1", "--workers", 1)
    assert prepare("dicom", tmp_path / "source", tmp_path / "one", *words) == 0
    assert prepare("dicom", tmp_path / "apart", tmp_path / "two", "--workers", 1) == 0
    assert "masks: DICOM SEG; classes are the labels of segments" in capsys.readouterr().out
    assert description(tmp_path / "one")["labels"] == description(tmp_path / "two")["labels"] == {
        "Lesion_all": 1, "Liver": 2}  # fmt: skip
    for row in rows_of(tmp_path / "one"):
        assert row["spacing"] == "3 0.5 0.4" and row in rows_of(tmp_path / "two"), "its hashes are equal too"
    stored = read_image(tmp_path / "two" / rows_of(tmp_path / "two")[0]["image"]).array[..., 0]
    assert np.array_equal(stored, noise(4, 12, 10, seed=0).astype(int) * 2 - 1024)


@pytest.mark.parametrize("is_enhanced", [False, True])
def test_segments_go_to_the_slices_that_they_name(is_enhanced, tmp_path, capsys):
    """Numbers may differ from file to file, labels do not; nothing of a segmentation's header is passed on."""
    source = tmp_path / "source" / "ward"
    liver, lesion = liver_and_lesion()
    for number in range(3):
        drawn = {"Liver": liver, "Lesion": lesion}
        if number == 1:
            drawn = dict(reversed(drawn.items()))
        if is_enhanced:
            uids = [enhanced(source / f"case{number}.dcm", number, patient=str(number))]
        else:
            volume(source / f"case{number}", number, patient=str(number))
            uids = uids_of(source / f"case{number}")
        segmentation(source / f"case{number}_mask.dcm", drawn, by="reference", uids=uids)
    assert prepare("dicom", tmp_path / "source", tmp_path / "out", "--slices", "--workers", 1) == 0
    assert description(tmp_path / "out")["labels"] == {"Lesion": 1, "Liver": 2}
    rows = rows_of(tmp_path / "out")
    assert len(rows) == 12 and "Who" not in (tmp_path / "out" / "dataset.json").read_text()
    for row in rows:
        index = int(row["slice"])
        expected = np.where(lesion[index], 1, np.where(liver[index], 2, 0))
        assert np.array_equal(read_mask(tmp_path / "out" / row["mask"]).array[0], expected)
    capsys.readouterr()
    words = ("--foreground", "1", "--workers", 1)
    assert prepare("dicom", tmp_path / "source", tmp_path / "out2", *words) == 2
    assert "--foreground names segment 1, which is Lesion and Liver; leave it out" in capsys.readouterr().err


def test_frames_that_do_not_say_where_they_lie_are_slices_in_their_order(tmp_path, capsys):
    """Secondary capture: without a spacing none is made up, and a volume is then no NIfTI, which cannot say so."""
    root = tmp_path / "source" / "ward"
    root.mkdir(parents=True)
    pixels = noise(4, 12, 10, seed=1).astype(np.uint16)
    for number in range(3):
        known = {"SpacingBetweenSlices": 2.0, "PixelSpacing": [0.5, 0.4]} if number == 2 else {}
        found = dataset(pixels[0], patient=str(number), NumberOfFrames=4, **known)
        if number == 1:
            found.PhotometricInterpretation, found.SamplesPerPixel, found.PlanarConfiguration = "RGB", 3, 0
            found.BitsAllocated, found.BitsStored, found.HighBit = 8, 8, 7
        found.PixelData = (np.repeat(pixels[..., None], 3, -1).astype(np.uint8) if number == 1 else pixels).tobytes()
        found.save_as(root / f"clip{number}.dcm", enforce_file_format=True)
        np.save(root / f"clip{number}_mask.npy", square(4, 12, 10, value=1))
    assert prepare("dicom", tmp_path / "source", tmp_path / "out", "--workers", 1) == 0
    assert "frames that do not say where they lie are slices in the order of their file" in capsys.readouterr().out
    rows = rows_of(tmp_path / "out")
    assert [row["spacing"] for row in rows] == ["", "", "2 0.5 0.4"]
    assert [row["image"].split(".", 1)[1] for row in rows] == ["npy", "npy", "nii.gz"]
    for row, channels in zip(rows, (1, 3, 1), strict=True):
        stored = read_image(tmp_path / "out" / row["image"])
        assert np.array_equal(stored.array, np.repeat(pixels[..., None], channels, -1))
        assert np.array_equal(read_mask(tmp_path / "out" / row["mask"]).array, square(4, 12, 10))


LIVER, LESION = liver_and_lesion()


@pytest.mark.parametrize(
    ("drawn", "fields", "message"),
    [
        ({"Liver": LIVER | LESION, "Lesion": LESION}, {}, "segments overlap, and a mask holds one value a pixel"),
        ({"Liver": LIVER, "": LESION}, {}, "segment 2 has no SegmentLabel to name its class by"),
        ({"Liver": LIVER}, {"SegmentationType": "FRACTIONAL"}, "a segmentation of the type FRACTIONAL; store it as"),
        ({"Liver": LIVER[:, 1:]}, {}, "is on another grid than its image, 12x10 and 11x10"),
        ({"Liver": np.concatenate([~LIVER, LIVER])}, {}, "frame 5 lies where no slice is"),
        ({"Liver": LIVER}, {"SharedFunctionalGroupsSequence": "wider"}, "frame 1 lies where no slice is"),
        ({"Liver": LIVER}, {"PerFrameFunctionalGroupsSequence": "lost"}, "frame 1 does not say which segment it is"),
        ({"Liver": LIVER}, {"PixelData": b"\0"}, "the pixels cannot be decoded"),
    ],
)
def test_segmentations_that_cannot_be_used_are_named(drawn, fields, message, tmp_path):
    if fields.get("SharedFunctionalGroupsSequence") == "wider":
        fields = {"SharedFunctionalGroupsSequence": items(PixelMeasuresSequence=items(PixelSpacing=[0.5, 0.8]))}
    if fields.get("PerFrameFunctionalGroupsSequence") == "lost":
        fields = {"PerFrameFunctionalGroupsSequence": items(FrameContentSequence=items(StackID="1"))}
    source = tmp_path / "source" / "ward"
    for number in range(2):
        volume(source / f"case{number}", number, patient=str(number))
        wrong = (drawn, fields) if number == 0 else ({"Liver": LIVER, "Lesion": LESION}, {})
        segmentation(source / f"case{number}_mask.dcm", wrong[0], **wrong[1])
    assert prepare("dicom", tmp_path / "source", tmp_path / "out", "--workers", 1) == 3
    (skipped,) = description(tmp_path / "out")["skipped"]
    assert skipped["what"] == "ward case0" and message in skipped["reason"]
    assert NAME not in (tmp_path / "out" / "dataset.json").read_text() and len(rows_of(tmp_path / "out")) == 1


def test_overlapping_segments_can_be_one_class_and_two_kinds_of_masks_are_refused(tmp_path, capsys):
    source = tmp_path / "source" / "ward"
    for number in range(2):
        volume(source / f"case{number}", number, patient=str(number))
        segmentation(source / f"case{number}_mask.dcm", {"Liver": LIVER | LESION, "Lesion": LESION})
    words = ("--foreground", "organ=1,2", "--workers", 1)
    assert prepare("dicom", tmp_path / "source", tmp_path / "out", *words) == 0
    assert description(tmp_path / "out")["labels"] == {"organ": 255}
    stored = read_mask(tmp_path / "out" / rows_of(tmp_path / "out")[0]["mask"]).array
    assert np.array_equal(stored > 0, LIVER | LESION)
    (source / "case1_mask.dcm").unlink()
    save_nifti(source / "case1_mask.nii.gz", square(4, 12, 10, value=1), affine=mask_affine())
    assert prepare("dicom", tmp_path / "source", tmp_path / "out2", "--workers", 1) == 2
    assert "some masks are DICOM SEG and some are not" in capsys.readouterr().err
