"""Checkpoint files of SAM: the official layout is read, everything else is refused in one message."""

from __future__ import annotations

import hashlib
import os
import pickle
from collections import OrderedDict
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file
from segment_anything.build_sam import sam_model_registry
from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer

from fedlit.errors import BadInput
from fedlit.networks.sam_checkpoint import describe, file_sha256, read_checkpoint

QKV = "image_encoder.blocks.0.attn.qkv.weight"
GET = "`fedlit weights` lists files that fit and fetches them"


def small_sam(embed_dim: int = 16) -> Sam:
    encoder = ImageEncoderViT(
        img_size=64, embed_dim=embed_dim, depth=2, num_heads=2, out_chans=16, use_rel_pos=True, global_attn_indexes=(1,)
    )
    prompts = PromptEncoder(embed_dim=16, image_embedding_size=(4, 4), input_image_size=(64, 64), mask_in_chans=4)
    transformer = TwoWayTransformer(depth=2, embedding_dim=16, mlp_dim=16, num_heads=2)
    return Sam(encoder, prompts, MaskDecoder(transformer_dim=16, transformer=transformer))


@pytest.fixture(scope="module")
def official():
    """What `torch.save(sam.state_dict())` of a small SAM holds."""
    torch.manual_seed(0)
    sam = small_sam()
    for parameter in sam.parameters():
        torch.nn.init.normal_(parameter)
    return dict(sam.state_dict())


@pytest.fixture(scope="module")
def shapes():
    """Names and shapes by size, without memory for the values."""
    with torch.device("meta"):
        return {size: dict(sam_model_registry[size]().state_dict()) for size in ("vit_b", "vit_l")}


def saved(path, content, **options):
    torch.save(content, path, **options)
    return path


def refusal(path, like, size="vit_b") -> str:
    with pytest.raises(BadInput) as refused:
        read_checkpoint(path, like, size=size)
    message = str(refused.value)
    assert message.startswith(f"{path}: ") and GET in message and "\n" not in message
    return message


def assert_equal(read, official):
    assert list(read) == list(official)
    for name, value in read.items():
        assert value.dtype == torch.float32 and torch.equal(value, official[name].float())


def test_a_file_of_the_official_names_shapes_and_bytes(shapes, tmp_path_factory):
    """vit_b at 1024 px: 314 tensors, 93 735 472 parameters and a table of 256 numbers, 375 MB like Meta's."""
    path = tmp_path_factory.mktemp("official") / "sam_vit_b_01ec64.pth"
    zeros = OrderedDict((name, torch.zeros(value.shape)) for name, value in shapes["vit_b"].items())
    zeros[QKV][5, 7] = 0.25
    saved(path, zeros)
    assert abs(path.stat().st_size - 375_042_383) < 50_000  # what Meta's file has
    read = read_checkpoint(path, shapes["vit_b"], size="vit_b")
    assert len(read) == 314 and sum(value.numel() for value in read.values()) == 93_735_472 + 256
    assert read[QKV].shape == (2304, 768) and read[QKV][5, 7] == 0.25
    with open(path, "r+b") as file:
        file.truncate(int(0.6 * path.stat().st_size))
    assert "truncated, damaged or no checkpoint" in refusal(path, shapes["vit_b"])
    path.unlink()


def test_the_names_are_those_that_segment_anything_loads(official, tmp_path):
    path = saved(tmp_path / "sam.pth", official)
    small_sam().load_state_dict(read_checkpoint(path, official, size="micro"), strict=True)


@pytest.mark.parametrize("prefix", ["", "module.", "sam.", "sam_model.", "module.sam."])
@pytest.mark.parametrize("key", [None, "model", "state_dict"])
def test_a_training_checkpoint_and_a_shared_prefix_are_seen_through(official, tmp_path, prefix, key):
    state = {f"{prefix}{name}": torch.nn.Parameter(value) for name, value in official.items()}
    optimizer = {"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": [{"lr": 1e-4, "params": [0]}]}
    content = {key: state, "optimizer": optimizer, "epoch": 3} if key else state
    read = read_checkpoint(saved(tmp_path / "run.pth", content), official, size="micro")
    assert_equal(read, official)
    assert not any(value.requires_grad for value in read.values())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_floating_numbers_become_float32(official, tmp_path, dtype):
    state = {name: value.to(dtype) for name, value in official.items()}
    assert_equal(read_checkpoint(saved(tmp_path / "half.pth", state), official, size="micro"), state)


def test_safetensors_and_the_format_before_torch_1_6(official, tmp_path):
    save_file(official, tmp_path / "sam.safetensors")
    assert_equal(read_checkpoint(tmp_path / "sam.safetensors", official, size="micro"), official)
    old = saved(tmp_path / "old.pth", official, _use_new_zipfile_serialization=False)
    assert_equal(read_checkpoint(old, official, size="micro"), official)


def test_the_shapes_may_be_on_the_meta_device_and_the_file_in_any_order(official, tmp_path):
    path = saved(tmp_path / "sam.pth", dict(reversed(official.items())))
    like = {name: value.to("meta") for name, value in official.items()}
    assert_equal(read_checkpoint(path, like, size="micro"), official)


def test_files_that_are_not_there_or_cannot_be_read(official, tmp_path):
    assert "no such file; " in refusal(tmp_path / "none.pth", official)
    assert "cannot be read (Is a directory); " in refusal(tmp_path, official)
    for text in (file_sha256, describe):
        with pytest.raises(BadInput, match=r"none\.pth: no such file; `fedlit weights`"):
            text(tmp_path / "none.pth")


@pytest.mark.parametrize("share", [0.001, 0.3, 0.6, 0.999])
@pytest.mark.parametrize("is_new", [True, False])
def test_truncated_files(official, tmp_path, share, is_new):
    path = saved(tmp_path / "sam.pth", official, _use_new_zipfile_serialization=is_new)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    message = refusal(path, official)
    assert "truncated, damaged or no checkpoint of torch.save (" in message or "refused" in message


def test_a_truncated_safetensors_file(official, tmp_path):
    path = tmp_path / "sam.safetensors"
    save_file(official, path)
    path.write_bytes(path.read_bytes()[: int(0.6 * path.stat().st_size)])
    assert "damaged or not a safetensors file" in refusal(path, official)


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"", "the file is empty"),
        (b"<!DOCTYPE html>\n<html>", "text that begins with '<!DOCTYPE', and no checkpoint: perhaps a page of the web"),
        (b"version https://git-lfs.github.com/spec/v1\n", "text that begins with 'version', and no checkpoint"),
        (bytes(100), "neither a file of torch.save nor .safetensors"),
        (b"\x89PNG\r\n", "neither a file of torch.save nor .safetensors"),
        (b"PK\x03\x04 and no more", "truncated, damaged or no checkpoint of torch.save"),
    ],
)
def test_files_that_are_no_checkpoint(official, tmp_path, content, what):
    path = tmp_path / "file.pth"
    path.write_bytes(content)
    assert what in refusal(path, official)


class Trap:
    """Unpickled, it makes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("write", ["new", "old", "pickle"])
def test_what_may_run_code_is_refused_and_does_not_run(official, tmp_path, write):
    content = {"model": official, "arguments": Trap(tmp_path / "sprung")}
    path = tmp_path / "trap.pth"
    if write == "pickle":
        path.write_bytes(pickle.dumps(content))
    else:
        saved(path, content, _use_new_zipfile_serialization=write == "new")
    message = refusal(path, official)
    assert "holds other objects than tensors (" in message and "which may run code when they are read" in message
    assert ("(posix.mkdir)" in message) is (write != "pickle")
    assert not (tmp_path / "sprung").exists()


def test_whole_modules_and_programs_are_refused(official, tmp_path):
    path = saved(tmp_path / "module.pth", {"model": official, "arguments": SimpleNamespace(lr=1)})
    assert "holds other objects than tensors (types.SimpleNamespace)" in refusal(path, official)
    path = saved(tmp_path / "sam.pth", small_sam())
    assert "holds other objects than tensors (" in refusal(path, official)


@pytest.mark.parametrize(
    "content", [[torch.zeros(2)], {"epoch": 3}, {}, {"model": {}}, torch.zeros(2), {1: torch.zeros(2)}]
)
def test_a_file_without_named_tensors(official, tmp_path, content):
    message = refusal(saved(tmp_path / "x.pth", content), official)
    assert "under a key such as model or state_dict; this file holds none; save the state dict alone" in message


def test_two_models_in_one_file_are_not_guessed_between(official, tmp_path):
    path = saved(tmp_path / "x.pth", {"model": official, "ema": official, "epoch": 1})
    assert "this file holds 2 (model, ema); save the state dict alone" in refusal(path, official)


def test_missing_and_unknown_names_are_counted_with_three_examples(official, tmp_path):
    names = list(official)
    state = {name: value for name, value in official.items() if name not in names[1:6]}
    message = refusal(saved(tmp_path / "x.pth", state), official)
    assert f": 5 of {len(names)} tensors are missing ({', '.join(names[1:4])}, ...); allowed are exactly" in message
    state = official | {"decoder.head.weight": torch.zeros(2)}
    message = refusal(saved(tmp_path / "x.pth", state), official)
    assert ": 1 are unknown (decoder.head.weight); allowed are exactly the names of package segment-any" in message
    state = {f"module.{name}": value for name, value in list(official.items())[1:]}  # told without the prefix
    assert f"1 of {len(names)} tensors are missing ({names[0]}); allowed" in refusal(
        saved(tmp_path / "x.pth", state), official
    )


def test_the_names_of_another_library_are_recognised(official, tmp_path):
    path = saved(tmp_path / "x.bin", {"vision_encoder.layers.0.attn.qkv.weight": torch.zeros(2)})
    message = refusal(path, official)
    assert f"{len(official)} of {len(official)} tensors are missing" in message
    assert "names of Hugging Face transformers: take the original file" in message


def test_another_size_is_recognised_by_the_encoders_width(shapes, tmp_path):
    small = {name: value for name, value in shapes["vit_l"].items() if value.numel() < 5000}
    path = saved(tmp_path / "sam_vit_l.pth", {name: torch.zeros(value.shape) for name, value in small.items()})
    message = refusal(path, shapes["vit_b"])
    assert f"{path}: this file is vit_l, not vit_b; set network.size=vit_l, or give a file of vit_b; {GET}" == message


def test_wrong_shapes_are_named(official, tmp_path):
    table = "image_encoder.pos_embed"
    path = saved(tmp_path / "x.pth", official | {table: torch.zeros(1, 8, 8, 16)})
    assert (
        f"1 of {len(official)} tensors have another shape than micro has: {table} is [1, 8, 8, 16], not [1, 4, 4, 16]; "
        in (refusal(path, official, "micro"))
    )


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_numbers_that_are_none_are_refused(official, tmp_path, value):
    broken = official[QKV].clone()
    broken[3, 4] = value
    path = saved(tmp_path / "x.pth", official | {QKV: broken})
    assert f"1 of {len(official)} tensors hold NaN or Inf ({QKV}); " in refusal(path, official)


@pytest.mark.filterwarnings("ignore:.*sparse")
@pytest.mark.parametrize("change", [torch.Tensor.long, torch.Tensor.to_sparse, lambda value: value.to("meta")])
def test_tensors_that_are_no_plain_floating_point_numbers_are_refused(official, tmp_path, change):
    path = saved(tmp_path / "x.pth", official | {QKV: change(official[QKV])})
    assert f"1 of {len(official)} tensors are not of floating-point numbers ({QKV}); " in refusal(path, official)


def test_the_line_about_a_file(tmp_path):
    path = tmp_path / "sam_vit_b_01ec64.pth"
    path.write_bytes(bytes(2_500_000))
    digest = hashlib.sha256(bytes(2_500_000)).hexdigest()
    assert file_sha256(path) == digest
    assert describe(path) == f"sam_vit_b_01ec64.pth: 2.5 MB, sha256 {digest}"
