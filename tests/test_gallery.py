"""Every picture has its own file, whatever the names of site, case and model."""

from __future__ import annotations

import numpy as np

from fedlit.gallery import save_picture


def test_pictures_of_similar_names_do_not_meet(tmp_path):
    generator = np.random.default_rng(0)
    image = generator.integers(0, 256, (6, 5, 3), dtype=np.uint8)
    planes = generator.random((2, 6, 5)) < 0.5
    names = ["a/b", "a_b", "../../a b", "A_B", "", "x" * 300, "<script>"]
    for site in names:
        for rank in ("best", "median", "worst"):
            save_picture(
                tmp_path,
                site=site,
                case=f"{site}/é",
                rank=rank,
                model="global",
                image=image,
                target=planes,
                prediction=~planes,
                dice=0.25,
            )
    save_picture(
        tmp_path,
        site="a/b",
        case="later",
        rank="best",
        model="global",
        image=image[..., 0],
        target=planes,
        prediction=planes,
        dice=1,
    )
    files = sorted((tmp_path / "pictures").iterdir())
    assert len({file.name.lower() for file in files}) == len(files) == 3 * len(names)
    assert all(file.parent == tmp_path / "pictures" and len(file.name) < 120 for file in files)
    seen = {}
    for file in files:
        with np.load(file, allow_pickle=False) as picture:
            seen[str(picture["site"]), str(picture["rank"])] = {name: picture[name] for name in picture.files}
    assert str(seen["a/b", "best"]["case"]) == "later" and seen["a/b", "best"]["image"].shape == (6, 5)
    assert (
        np.array_equal(seen["<script>", "worst"]["prediction"], ~planes) and seen["<script>", "worst"]["dice"] == 0.25
    )
