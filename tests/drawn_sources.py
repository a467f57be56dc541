"""The papers' data sets as their owners publish them, in miniature: pictures drawn by the phantom, 64 px a side."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from fedlit.data.phantom_drawing import draw
from fedlit.data.phantom_hospitals import members
from tests.preparation_sources import save, save_nifti

SIDE = 64
PROSTATE = {  # site -> cases that train, choose the round and test in IOP-FL's split
    "BIDMC": (0, 7, 10),
    "HK": (39, 44, 49),
    "I2CVB": (0, 7, 18),
    "RUNMC": (0, 23, 7),
    "BMC": (0, 28, 18),
    "UCL": (25, 35, 33),
}
WHOLE_FUNDUS = ("REFUGE", "ORIGA", "G1020", "Drishti-GS1")
NUM_EYES = 4  # of each source


def drawn(place: int, patient: int, visit: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A picture of the hospital number `place`, and its mask: 1 and 2 the lungs, 3 the heart; uint8 [SIDE, SIDE]."""
    hospital = members(8)[place]
    return draw(hospital, 1000 * place + patient, 10**6 * place + 100 * patient + visit, SIDE)


def volume(place: int, patient: int, depth: int) -> tuple[np.ndarray, np.ndarray]:
    """Pictures of one patient as slices [D, SIDE, SIDE]; the first has nothing in its mask."""
    images, masks = zip(*(drawn(place, patient, visit) for visit in range(depth)), strict=True)
    return np.stack(images), np.stack([np.zeros_like(masks[0]), *masks[1:]])


def coloured(grey: np.ndarray) -> np.ndarray:
    return np.stack([grey, grey // 2, grey // 3], axis=-1)


def prostate(root: Path, depth: int = 3) -> Path:
    """{site}/CaseNN.nii.gz and CaseNN_segmentation.nii.gz."""
    for place, (site, numbers) in enumerate(PROSTATE.items()):
        for number in numbers:
            image, mask = volume(place, number, depth)
            save_nifti(root / site / f"Case{number:02d}.nii.gz", 4 * image.astype(np.int16))
            save_nifti(root / site / f"Case{number:02d}_segmentation.nii.gz", np.where(mask == 3, 2, mask > 0) * 1.0)
    return root


def eye(place: int, number: int, cup: int, rim: int, background: int) -> tuple[np.ndarray, np.ndarray]:
    grey, codes = drawn(place, number)
    mask = np.full_like(codes, background)
    mask[codes > 0], mask[codes == 3] = rim, cup
    return coloured(grey), mask


def whole_fundus(root: Path) -> Path:
    """REFUGE's training pictures, ORIGA, G1020 and Drishti-GS1."""
    for number in range(1, NUM_EYES + 1):
        kind, letter = (("Glaucoma", "g"), ("Non-Glaucoma", "n"))[number % 2]
        image, mask = eye(0, number, 0, 128, 255)
        save(root / "Training400" / kind / f"{letter}{number:04d}.jpg", image)
        masks = root / "Annotation-Training400" / "Annotation-Training400" / "Disc_Cup_Masks" / kind
        save(masks / f"{letter}{number:04d}.bmp", mask)
        for place, site, name in ((1, "ORIGA", f"{number:03d}"), (2, "G1020", f"image_{number}")):
            image, mask = eye(place, number, 2, 1, 0)
            save(root / site / "Images" / f"{name}.jpg", image)
            save(root / site / "Masks" / f"{name}.png", mask)
        image, mask = eye(3, number, 255, 128, 0)
        name = f"drishtiGS_{number:03d}"
        part, truth = ("Training", "GT") if number < NUM_EYES else ("Test", "Test_GT")
        save(root / "Drishti-GS1_files" / part / "Images" / f"{name}.png", image)
        maps = root / "Drishti-GS1_files" / part / truth / name / "SoftMap"
        save(maps / f"{name}_ODsegSoftmap.png", np.where(mask > 0, 255, 0).astype(np.uint8))
        save(maps / f"{name}_cupsegSoftmap.png", np.where(mask == 255, 255, 0).astype(np.uint8))
    return root


def cut_out_fundus(root: Path) -> Path:
    """Domain1 to Domain4, each with train and test."""
    for place in range(4):
        for number in range(1, NUM_EYES + 1):
            image, mask = eye(place, number, 0, 128, 255)
            folder = root / f"Domain{place + 1}" / ("train" if number < NUM_EYES else "test") / "ROIs"
            name = f"G-{number}-L" if place == 1 else f"d{place}_{number:03d}"
            save(folder / "image" / f"{name}.png", image)
            save(folder / "mask" / f"{name}.png", mask)
    return root


def outlines(mask: np.ndarray) -> str:
    """As Aperio ImageScope writes it."""
    import cv2

    found, _ = cv2.findContours((mask > 0).astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    regions = "".join(
        f'<Region Id="{number}"><Vertices>'
        + "".join(f'<Vertex X="{x}.0" Y="{y}.0" Z="0"/>' for x, y in points[:, 0].tolist())
        + "</Vertices></Region>"
        for number, points in enumerate(found, 1)
    )
    inside = f'<Annotation Id="1"><Regions>{regions}</Regions></Annotation>'
    return f'<?xml version="1.0"?>\n<Annotations>{inside}</Annotations>'


def nuclei(root: Path) -> Path:
    """PanNuke's folds 2 and 3 with two tissues each, MoNuSAC, MoNuSeg and TNBC."""
    for fold, tissues in ((2, ("Adrenal_gland", "Esophagus")), (3, ("Bile-duct", "Uterus"))):
        pairs = [drawn(fold + number % 2, number) for number in range(8)]
        planes = np.zeros((len(pairs), SIDE, SIDE, 6))
        planes[..., 0] = np.stack([mask > 0 for _, mask in pairs])
        planes[..., 5] = 1 - planes[..., 0]
        for kind, array in (("images", np.stack([coloured(grey) for grey, _ in pairs]) * 1.0), ("masks", planes)):
            folder = root / f"Fold {fold}" / kind / f"fold{fold}"
            folder.mkdir(parents=True)
            np.save(folder / f"{kind}.npy", array)
        np.save(root / f"Fold {fold}" / "images" / f"fold{fold}" / "types.npy", np.array(tissues * 4))
    for number in range(1, 5):
        slide = f"TCGA-18-55{number:02d}-01Z-00-DX1"
        grey, mask = drawn(5, number)
        monusac = root / "MoNuSAC_images_and_annotations" / slide
        save(monusac / f"{slide}_1.tif", coloured(grey))
        (monusac / f"{slide}_1.xml").write_text(outlines(mask))
        grey, mask = drawn(6, number)
        monuseg = root / "MoNuSeg 2018 Training Data"
        save(monuseg / "Tissue Images" / f"{slide}.tif", coloured(grey))
        (monuseg / "Annotations").mkdir(exist_ok=True)
        (monuseg / "Annotations" / f"{slide}.xml").write_text(outlines(mask))
        grey, mask = drawn(7, number)
        tnbc = root / "TNBC_NucleiSegmentation"
        save(tnbc / f"Slide_{number:02d}" / f"{number:02d}_1.png", coloured(grey))
        save(tnbc / f"GT_{number:02d}" / f"{number:02d}_1.png", np.where(mask > 0, 255, 0).astype(np.uint8))
    return root


def fets(root: Path, depth: int = 4) -> Path:
    """FeTS2022_NNNNN with four modalities and the partition; the last slice of every volume shows nothing."""
    lines = ["Partition_ID,Subject_ID"]
    for place, institution in enumerate((1, 6, 18, 21)):
        for number in range(4):
            name = f"FeTS2022_{100 * place + number:05d}"
            image, mask = volume(place, number, depth)
            image[-1] = mask[-1] = 0
            tumour = np.choose(mask, [0, 2, 1, 4])
            for step, modality in enumerate(("t1", "t1ce", "t2", "flair")):
                path = root / name / f"{name}_{modality}.nii.gz"
                save_nifti(path, image.astype(np.int16) * (step + 1), spacing=(1.0, 1.0, 1.0))
            save_nifti(root / name / f"{name}_seg.nii.gz", tumour.astype(np.uint8), spacing=(1.0, 1.0, 1.0))
            lines.append(f"{institution},{name}")
    (root / "partitioning_1.csv").write_text("\n".join(lines) + "\n")
    return root


def chest(root: Path) -> Path:
    """JSRT with the SCR masks (raw pictures of 2 x SIDE), Montgomery, Shenzhen and COVID-QU-Ex."""

    def lungs(mask: np.ndarray, *codes: int) -> np.ndarray:
        return np.where(np.isin(mask, codes), 255, 0).astype(np.uint8)

    for number in range(1, 5):
        name, (grey, mask) = f"JPCLN{number:03d}", drawn(0, number)
        raw = (4095 - 16 * grey.astype(np.int32)).repeat(2, 0).repeat(2, 1)
        (root / "JSRT" / "All247images").mkdir(parents=True, exist_ok=True)
        (root / "JSRT" / "All247images" / f"{name}.IMG").write_bytes(raw.astype(">u2").tobytes())
        for side, code in (("right lung", 1), ("left lung", 2)):
            save(
                root / "JSRT" / "scratch" / f"fold{1 + number % 2}" / "masks" / side / f"{name}.gif", lungs(mask, code)
            )
        name, (grey, mask) = f"MCUCXR_{number:04d}_{number % 2}.png", drawn(1, number)
        save(root / "MontgomerySet" / "CXR_png" / name, grey)
        for side, code in (("rightMask", 1), ("leftMask", 2)):
            save(root / "MontgomerySet" / "ManualMask" / side / name, lungs(mask, code))
        name, (grey, mask) = f"CHNCXR_{number:04d}_{number % 2}", drawn(2, number)
        save(root / "ChinaSet_AllFiles" / "CXR_png" / f"{name}.png", grey)
        save(root / "mask" / f"{name}_mask.png", lungs(mask, 1, 2))
        below = root / "COVID-QU-Ex" / "Lung Segmentation Data" / "Lung Segmentation Data"
        part, (grey, mask) = ("Train", "Train", "Val", "Test")[number - 1], drawn(3, number)
        save(below / part / "Normal" / "images" / f"normal_{number}.png", grey)
        save(below / part / "Normal" / "lung masks" / f"normal_{number}.png", lungs(mask, 1, 2))
    return root
