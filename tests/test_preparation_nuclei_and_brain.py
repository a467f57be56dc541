"""Nuclei from folds of arrays, XML outlines and drawn masks; brain tumours by institution."""

import numpy as np
import pytest

from fedlit.data import Manifest
from fedlit.data.reading import read_image, read_mask
from fedlit.errors import BadInput
from fedlit.preparation.decoding import filled
from fedlit.preparation.nuclei import regions
from tests.preparation_sources import (
    check_and_plan,
    description,
    noise,
    prepare,
    rows_of,
    save,
    save_nifti,
    square,
)

SLIDES = ("TCGA-18-5592-01Z-00-DX1", "TCGA-18-5592-01Z-00-DX2", "TCGA-38-6178-01Z-00-DX1", "TCGA-A7-A13E-01Z-00-DX1")


def image_scope(*polygons: list[tuple[float, float]], name: str = "") -> str:
    """As Aperio ImageScope writes it."""
    regions = "".join(
        f'<Region Id="{number}" Type="0" Zoom="1" NegativeROA="0"><Attributes/><Vertices>'
        + "".join(f'<Vertex X="{x}" Y="{y}" Z="0"/>' for x, y in points)
        + "</Vertices></Region>"
        for number, points in enumerate(polygons, 1)
    )
    attribute = f'<Attribute Name="{name}" Id="0" Value=""/>' if name else ""
    return (
        f'<Annotation Id="1" Name="" ReadOnly="0" LineColor="65280"><Attributes>{attribute}</Attributes>'
        f"<Regions><RegionAttributeHeaders/>{regions}</Regions><Plots/></Annotation>"
    )


def xml(*annotations: str) -> str:
    return f'<?xml version="1.0"?>\n<Annotations MicronsPerPixel="0.252000">{"".join(annotations)}</Annotations>'


BOX = [(5.0, 5.0), (14.0, 5.0), (14.0, 14.0), (5.0, 14.0)]


def pannuke(root):
    for fold in (1, 2):
        num = 6
        below = root / f"Fold {fold}"
        (below / "images" / f"fold{fold}").mkdir(parents=True)
        (below / "masks" / f"fold{fold}").mkdir(parents=True)
        images = np.random.default_rng(fold).integers(0, 256, (num, 32, 32, 3)).astype(np.float64)
        masks = np.zeros((num, 32, 32, 6))
        masks[..., 5] = 1
        masks[:, 4:10, 4:10, 0] = 7
        masks[:, 12:20, 12:20, 3] = 9
        masks[:, 4:10, 4:10, 5] = 0
        np.save(below / "images" / f"fold{fold}" / "images.npy", images)
        np.save(below / "images" / f"fold{fold}" / "types.npy", np.array(["Adrenal_gland", "Bile-duct"] * 3))
        np.save(below / "masks" / f"fold{fold}" / "masks.npy", masks)


def monuseg_monusac_tnbc(root):
    for number, slide in enumerate(SLIDES):
        save(root / "MoNuSeg 2018 Training Data" / "Tissue Images" / f"{slide}.tif", noise(30, 30, 3, seed=number))
        (root / "MoNuSeg 2018 Training Data" / "Annotations").mkdir(exist_ok=True)
        (root / "MoNuSeg 2018 Training Data" / "Annotations" / f"{slide}.xml").write_text(xml(image_scope(BOX)))
        folder = root / "MoNuSAC_images_and_annotations" / slide
        for part in (1, 2):
            save(folder / f"{slide}_{part}.tif", noise(30, 30, 3, seed=10 + 2 * number + part))
            doubtful = image_scope([(20, 20), (28, 20), (28, 28)], name="Ambiguous")
            (folder / f"{slide}_{part}.xml").write_text(xml(image_scope(BOX, name="Epithelial"), doubtful))
        save(root / "MoNuSegTestData" / f"TCGA-2Z-A9J{number}-01A-01-TS1.tif", noise(30, 30, 3, seed=40 + number))
        (root / "MoNuSegTestData" / f"TCGA-2Z-A9J{number}-01A-01-TS1.xml").write_text(xml(image_scope(BOX)))
        below = root / "TNBC_NucleiSegmentation"
        for part in (1, 2):
            name = f"{number + 1:02d}_{part}.png"
            save(below / f"Slide_{number + 1:02d}" / name, noise(30, 30, 3, seed=60 + 2 * number + part))
            save(below / f"GT_{number + 1:02d}" / name, square(30, 30))


def test_nuclei_of_four_sources(tmp_path, capsys):
    source, out = tmp_path / "source", tmp_path / "out"
    pannuke(source)
    monuseg_monusac_tnbc(source)
    assert prepare("nuclei", source, out) == 0
    rows = rows_of(out)
    sites = {row["site"] for row in rows}
    assert sites == {
        "MoNuSAC",
        "MoNuSeg",
        "TNBC",
        *(f"PanNuke{f} {t}" for f in (1, 2) for t in ("Adrenal_gland", "Bile-duct")),
    }
    boxes = np.zeros((30, 30), np.uint8)
    boxes[5:15, 5:15] = 255
    for row in rows:
        if row["site"].startswith("MoNu"):
            assert np.array_equal(read_mask(out / row["mask"]).array[0], boxes), "ambiguous regions are background"
    assert {row["group"] for row in rows if row["site"] == "MoNuSAC"} == {
        "TCGA-18-5592",
        "TCGA-38-6178",
        "TCGA-A7-A13E",
    }
    assert {row["split"] for row in rows if "TS1" in row["image"]} == {"test"}
    patch = next(row for row in rows if row["image"] == "images/PanNuke2_Bile-duct/0003.png")
    images = np.load(source / "Fold 2" / "images" / "fold2" / "images.npy")
    assert np.array_equal(read_image(out / patch["image"]).array[0], images[3])
    assert (read_mask(out / patch["mask"]).array[0] == 255).sum() == 36 + 64
    check_and_plan(out, capsys, unseen=("PanNuke2 Bile-duct",))
    assert prepare("nuclei", source, out, "--split", "fedfms") == 0
    told = capsys.readouterr().out
    assert "not found in SOURCE: cases of PanNuke3, TCGA_brain\n" in told and "split: FedFMS" in told
    splits = {(row["site"], row["group"]): row["split"] for row in rows_of(out)}
    held_out = sorted(site for (site, _), split in splits.items() if split == "val")
    assert held_out == sorted(sites) and {*splits.values()} == {"train", "val"}
    for row in rows_of(out):
        assert row["split"] == splits[row["site"], row["group"]], "a patient is whole"
    assert prepare("nuclei", source, out, "--sites", "TNBC") == 0
    told = capsys.readouterr().out
    assert "of TNBC the patient is the slide" in told and "MoNuS" not in told and "PanNuke" not in told


def test_the_second_release_of_tnbc_has_types_of_nuclei_and_brain(tmp_path, capsys):
    """RGBA whose fourth channel is empty, masks with a number for each type, slides from 12 being brain."""
    root = tmp_path / "source" / "TNBC_and_Brain_dataset_celltype_integer"
    for slide in ("01", "02", "11", "12", "13", "14"):
        save(
            root / f"Slide_{slide}" / f"{slide}_1.png",
            np.dstack([noise(30, 30, 3, seed=int(slide)), square(30, 30, value=0)]),
        )
        types = square(30, 30, value=3)
        types[8:12, 8:12] = 11
        save(root / f"GT_{slide}" / f"{slide}_1.png", types)
    assert prepare("nuclei", root, tmp_path / "out") == 0
    rows = rows_of(tmp_path / "out")
    assert [row["site"] for row in rows] == ["TCGA_brain"] * 3 + ["TNBC"] * 3
    for row in rows:
        assert np.array_equal(read_mask(tmp_path / "out" / row["mask"]).array[0], square(30, 30))
    assert np.array_equal(read_image(tmp_path / "out" / rows[-1]["image"]).array[0], noise(30, 30, 3, seed=11))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<Annotations><Annotation><Regions/></Annotation></Annotations>", "holds no polygon"),
        ("not xml", "no ImageScope XML"),
        (xml('<Annotation><Regions><Region><Vertex Y="3"/></Region></Regions></Annotation>'), "no ImageScope XML"),
        ('<!DOCTYPE a [<!ENTITY b "bbbb">]><Annotations>&b;</Annotations>', "declares a document type"),
    ],
)
def test_xml_without_outlines_is_named(text, message, tmp_path):
    path = tmp_path / "slide.xml"
    path.write_text(text)
    with pytest.raises(BadInput, match=message):
        regions(path)


def test_outlines_that_overlap_leave_no_hole_and_may_leave_the_picture(tmp_path):
    one, two = np.array(BOX), np.array(BOX) + 5
    mask = filled([one, two], (16, 16), tmp_path)
    assert (mask[5:15, 5:15] == 255).all() and (mask[10:, 10:] == 255).all() and mask[0, 0] == 0
    with pytest.raises(BadInput, match="far outside"):
        filled([one * 1000], (16, 16), tmp_path)


def test_a_fold_that_is_half_there_is_named(tmp_path):
    pannuke(tmp_path / "source")
    (tmp_path / "source" / "Fold 1" / "masks" / "fold1" / "masks.npy").unlink()
    assert prepare("nuclei", tmp_path / "source", tmp_path / "out") == 3
    assert description(tmp_path / "out")["skipped"] == [{"what": "PanNuke fold 1", "reason": "masks.npy is missing"}]


def fets(root, institutions: dict[int, int]):
    lines, number = ["Partition_ID,Subject_ID"], 0
    for institution, count in institutions.items():
        for _ in range(count):
            name = f"FeTS2022_{number:05d}"
            for modality in ("flair", "t1", "t1ce", "t2"):
                volume = np.random.default_rng(number).integers(0, 3000, (4, 12, 12)).astype(np.int16)
                save_nifti(root / name / f"{name}_{modality}.nii.gz", volume, spacing=(1.0, 1.0, 1.0))
            tumour = square(4, 12, 12, value=2)
            tumour[1, 5, 5], tumour[1, 6, 6] = 1, 4
            save_nifti(root / name / f"{name}_seg.nii.gz", tumour, spacing=(1.0, 1.0, 1.0))
            lines.append(f"{institution},{name}")
            number += 1
    (root / "partitioning_1.csv").write_text("\n".join(lines) + "\n")
    return root


def test_brains_are_at_the_institutions_of_the_partition(tmp_path, capsys):
    source, out = fets(tmp_path / "MICCAI_FeTS2022_TrainingData", {1: 4, 18: 3}), tmp_path / "out"
    assert prepare("fets", source, out) == 0
    rows = rows_of(out)
    assert [row["site"] for row in rows] == ["institution 1"] * 4 + ["institution 18"] * 3
    assert set(np.unique(read_mask(out / rows[0]["mask"]).array)) == {0, 1, 2, 4}
    assert description(out)["labels"]["tumour_core"] == [1, 4]
    check_and_plan(out, capsys)
    assert prepare("fets", source, out, "--split", "fedfms") == 0
    assert [row["split"] for row in rows_of(out)].count("val") == 2 and "split: FedFMS" in capsys.readouterr().out
    assert "test" not in {row["split"] for row in rows_of(out)}
    assert (
        prepare("fets", source, tmp_path / "slices", "--slices", "--modality", "t1ce", "--sites", "institution 1") == 0
    )
    assert len(rows_of(tmp_path / "slices")) == 16
    check_and_plan(tmp_path / "slices", capsys)


def test_slices_without_anything_are_not_something_to_look_at_unless_drawn_on(tmp_path, capsys):
    """Around a brain all is 0 as published; a tumour drawn where nothing can be seen is a mistake."""
    source, out = fets(tmp_path / "source", {1: 3}), tmp_path / "out"
    for number in range(3):
        name = f"FeTS2022_{number:05d}"
        brain = np.random.default_rng(number).integers(0, 3000, (6, 12, 12)).astype(np.int16)
        brain[[0, 1, 5]] = 0
        tumour = square(6, 12, 12, value=2)
        tumour[[0, 1, 5]] = 0
        save_nifti(source / name / f"{name}_flair.nii.gz", brain, spacing=(1.0, 1.0, 1.0))
        save_nifti(source / name / f"{name}_seg.nii.gz", tumour, spacing=(1.0, 1.0, 1.0))
    for _ in range(2):  # the second time from what was noted
        assert prepare("fets", source, out, "--slices") == 0
        assert "blank and without foreground, not written" in (told := capsys.readouterr().out)
        assert "scored): 9 slices of 3 volumes" in told
        assert description(out)["skipped"] == [] and description(out)["blank_slices"] == 9
    assert [row["slice"] for row in rows_of(out)] == ["2", "3", "4"] * 3
    (volumes,) = Manifest(root=str(out), labels=description(out)["labels"], fractions=(1, 0, 0)).load()
    assert len(volumes.train.cases) + len(volumes.val.cases) + len(volumes.test.cases) == 3
    tumour[0, 4, 4] = 1
    save_nifti(source / name / f"{name}_seg.nii.gz", tumour, spacing=(1.0, 1.0, 1.0))
    assert prepare("fets", source, out, "--slices") == 3
    (skipped,) = description(out)["skipped"]
    assert skipped["what"].endswith("slice 0") and "the mask has foreground there" in skipped["reason"]


def test_partitions_that_do_not_fit_are_named(tmp_path, capsys):
    source = fets(tmp_path / "source", {1: 3, 2: 3})
    table = source / "partitioning_1.csv"
    table.write_text(table.read_text().replace("1,FeTS2022_00000", "1,FeTS2022_09999"))
    table.write_text(table.read_text() + "18,FeTS2022_08888\n")
    assert prepare("fets", source, tmp_path / "out") == 3
    assert description(tmp_path / "out")["skipped"][0]["reason"] == "is not in partitioning_1.csv"
    told = capsys.readouterr().out
    assert "fets: of the cases that partitioning_1.csv names, SOURCE lacks 1 of institution 1\n" in told
    assert "not found in SOURCE: cases of institution 18\n" in told
    table.write_text(table.read_text() + "2,FeTS2022_00001\n")
    assert prepare("fets", source, tmp_path / "out") == 2
    assert "FeTS2022_00001 is at the institutions 1 and 2" in capsys.readouterr().err
    table.write_text("a,b\n1,2\n")
    assert prepare("fets", source, tmp_path / "out") == 2
    assert "the columns Partition_ID and Subject_ID are missing" in capsys.readouterr().err
    table.unlink()
    assert prepare("fets", source, tmp_path / "out") == 2
    assert "partitioning_1.csv is not below" in capsys.readouterr().err
