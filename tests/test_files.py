"""A file is whole or not there."""

from __future__ import annotations

import json

import numpy as np
import pytest

from fedlit.files import write_json


def test_json_is_replaced_whole_or_not_at_all(tmp_path):
    path = tmp_path / "summary.json"
    write_json(path, {"a": float("nan"), "b": [np.float32(0.5), np.int64(3), float("inf")], "ü": None})
    assert json.loads(path.read_text()) == {"a": None, "b": [0.5, 3, None], "ü": None}
    with pytest.raises(TypeError):
        write_json(path, {"a": object()})
    assert json.loads(path.read_text())["b"][1] == 3
    assert list(tmp_path.iterdir()) == [path]
