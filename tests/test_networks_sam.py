"""Laws of SAM: equal to segment_anything where it is the same, to FedFMS where it is published; what is trained."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from segment_anything import sam_model_registry
from segment_anything.modeling.image_encoder import Attention
from torch import nn

from fedlit.losses import DiceBCE
from fedlit.networks import SAM, Adapters, DecoderOnly, Full, LoRA
from fedlit.networks.prompting import prompted
from fedlit.networks.relative_attention import WAYS, RelativeAttention
from fedlit.networks.sam_architecture import SIZES, Architecture, build_sam
from fedlit.resident import Resident

GOLDEN = Path(__file__).parent / "golden"
WINDOWED = Architecture(48, 3, 3, (1,), 128, 16, 3, decoder_width=32, decoder_mlp=64, decoder_heads=4)
TUNINGS = [Full(), Adapters(), Adapters(last=2), LoRA(), LoRA(blocks=[3]), DecoderOnly()]


def made(tuning=None, out_channels=1, size="micro", seed=0, **settings) -> SAM:
    """A SAM whose position tables are not zero, as those of a trained one."""
    torch.manual_seed(seed)
    sam = SAM(1, out_channels, size=size, tuning=tuning, **settings)
    with torch.no_grad():
        for name, value in sam.image_encoder.named_parameters():
            if "rel_pos" in name or "pos_embed" in name:
                value.normal_(std=0.2)
    return sam


def shaken(sam: SAM) -> SAM:
    """As after training: every trained tensor is somewhere else."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for value in sam.parameters():
            if value.requires_grad:
                value += 0.02 * torch.randn(value.shape, generator=generator)
    return sam


@pytest.fixture
def windowed(monkeypatch):
    monkeypatch.setitem(SIZES, "windowed", WINDOWED)
    return "windowed"


def image(batch=2, channels=1, height=64, width=64, seed=0):
    return torch.rand(batch, channels, height, width, generator=torch.Generator().manual_seed(seed))


# What is published


@pytest.mark.parametrize("name", ["msa_encoder", "msa_encoder_padded_as_released"])
def test_the_adapted_encoder_of_fedfms(monkeypatch, name):
    golden = load_file(GOLDEN / f"{name}.safetensors")
    window = 4 if name == "msa_encoder" else 3
    size = Architecture(48, 3, 3, (1,), 128, 16, window, decoder_width=32, decoder_mlp=64, decoder_heads=4)
    monkeypatch.setitem(SIZES, "golden", size)
    sam = SAM(size="golden", tuning=Adapters(as_released="padded" in name), normalize=False)
    ours = {"Space_Adapter": "space_adapter", "MLP_Adapter": "mlp_adapter", "D_fc1": "down", "D_fc2": "up"}

    def renamed(prefix):
        found = {}
        for key, value in golden.items():
            if key.startswith(prefix) and "Depth_Adapter" not in key:
                for theirs, our in ours.items():
                    key = key.replace(theirs, our)
                found[key.removeprefix(prefix)] = value
        return found

    sam.image_encoder.load_state_dict(renamed("weight."))
    embedding = sam.encode(golden["input"])
    torch.testing.assert_close(embedding, golden["output"], atol=1e-5, rtol=0)
    embedding.square().mean().backward()
    gradients = {key: value.grad for key, value in sam.image_encoder.named_parameters() if value.requires_grad}
    expected = renamed("grad.")
    assert gradients.keys() == expected.keys()
    for key in expected:
        torch.testing.assert_close(gradients[key], expected[key], atol=1e-8, rtol=1e-4)


def test_padding_first_matters_where_windows_do_not_fit(windowed):
    """What is padded before the norm becomes its bias."""
    sam, slip = (shaken(made(Adapters(as_released=is_slip), size=windowed)) for is_slip in (False, True))
    picture = image(height=128, width=128)  # 8 x 8 tokens in windows of 3
    torch.testing.assert_close(sam.encode(picture), slip.encode(picture))
    for network in (sam, slip):
        nn.init.ones_(network.image_encoder.blocks[0].norm1.bias)
    assert (sam.encode(picture) - slip.encode(picture)).abs().max() > 1e-2


@pytest.mark.parametrize("classes", [1, 2])
def test_the_promptless_decoder_of_fedfms(monkeypatch, windowed, classes):
    golden = load_file(GOLDEN / f"promptless_decoder_{classes}class.safetensors")
    sam = SAM(out_channels=classes, size=windowed)
    decoder = {key.removeprefix("decoder."): value for key, value in golden.items() if key.startswith("decoder.")}
    head = {key: decoder.pop(f"seg1.{key}") for key in ("weight", "bias")}
    sam.mask_decoder.load_state_dict(decoder)
    if sam.head is not None:
        sam.head.load_state_dict(head)
    monkeypatch.setattr(sam, "places", lambda height, width: golden["image_pe"])
    masks, _ = sam.decode(golden["embedding"])
    logits = masks[:, :1] if sam.head is None else sam.head(masks)
    torch.testing.assert_close(logits, golden["logits"], atol=1e-5, rtol=0)


def test_sizes_of_fedfms():
    """Millions trained and sent: 93.6 (93.7 as released, with the quality head), 11.03 (14.7)."""
    with torch.device("meta"):
        trained = {
            type(tuning).__name__: sum(
                value.numel() for value in SAM(tuning=tuning).parameters() if value.requires_grad
            )
            for tuning in (Full(), Adapters(), LoRA(), DecoderOnly())
        }
    assert trained == {"Full": 93_596_640, "Adapters": 11_026_656, "LoRA": 4_073_184, "DecoderOnly": 3_925_728}


# What is segment_anything's own


@pytest.mark.parametrize("size", ["vit_b", "vit_l", "vit_h"])
def test_entries_are_those_of_the_official_checkpoints(size):
    with torch.device("meta"):
        official, ours = sam_model_registry[size]().state_dict(), SAM(size=size, tuning=DecoderOnly()).state_dict()
    assert {name: value.shape for name, value in ours.items()} == {name: v.shape for name, v in official.items()}


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")  # on a GPU it is compiled
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("height", "width", "table"), [(8, 8, 8), (6, 9, 14), (14, 14, 8)])
def test_attention_is_the_stock_attention(way, height, width, table):
    torch.manual_seed(0)
    stock = Attention(48, num_heads=3, use_rel_pos=True, input_size=(table, table))
    for value in (stock.rel_pos_h, stock.rel_pos_w):
        nn.init.normal_(value)
    ours = RelativeAttention(stock, way)
    assert {name: id(value) for name, value in ours.named_parameters()} == {
        name: id(value) for name, value in stock.named_parameters()
    }
    x = torch.randn(2, height, width, 48, requires_grad=way != "flexed")  # which has no gradient on a CPU
    with torch.no_grad() if way == "flexed" else nullcontext():
        expected, found = stock(x), ours(x)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    if way != "flexed":
        inputs = [x, *stock.parameters()]
        for theirs, our in zip(
            torch.autograd.grad(expected.square().sum(), inputs),
            torch.autograd.grad(found.square().sum(), inputs),
            strict=True,
        ):
            torch.testing.assert_close(our, theirs, atol=1e-4, rtol=1e-4)


def test_the_whole_network_with_stock_attention_is_the_same(windowed):
    fast, stock = made(size=windowed), made(size=windowed, attention="stock")
    picture = image(height=160, width=100)
    torch.testing.assert_close(fast(picture), stock(picture), atol=1e-5, rtol=1e-5)


def test_the_encoder_is_the_original_at_its_own_size(windowed):
    sam, torch_seed = made(size=windowed), 0
    torch.manual_seed(torch_seed)
    stock = build_sam(WINDOWED)
    stock.load_state_dict(sam.state_dict())
    picture = image(3, 3, 128, 128)
    expected = stock.image_encoder((picture - sam.mean) / sam.std)
    torch.testing.assert_close(sam.encode(picture), expected, atol=1e-5, rtol=1e-5)


def test_places_are_those_of_the_original(windowed):
    sam = made(size=windowed)
    torch.testing.assert_close(sam.places(8, 8), sam.prompt_encoder.get_dense_pe())
    torch.testing.assert_close(sam.places(5, 9)[0], sam.prompt_encoder.pe_layer((5, 9)))
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(sam.places(8, 8), sam.prompt_encoder.pe_layer((8, 8))[None].float(), atol=1, rtol=1)
        assert sam.places(8, 8).dtype == torch.float32


def test_prompts_are_those_of_the_original(windowed):
    """Boxes and points at the size that SAM was made for: as its own modules, one picture after another."""
    sam = made(size=windowed)
    stock = build_sam(WINDOWED)
    stock.load_state_dict(sam.state_dict())
    pictures = image(2, 3, 128, 128)
    boxes = torch.tensor([[[10.0, 20, 60, 90], [0, 0, 127, 127]], [[5, 5, 50, 60], [30, 40, 100, 90]]])
    points = torch.tensor([[[[30.0, 40]], [[64, 64]]], [[[20, 20]], [[60, 70]]]])
    labels = torch.ones(2, 2, 1)
    for given in (
        {"boxes": boxes},
        {"points": points, "labels": labels},
        dict(boxes=boxes, points=points, labels=labels),
    ):
        found = prompted(sam, pictures, **given)
        assert found.logits.shape == (2, 2, 4, 128, 128) and found.quality.shape == (2, 2, 4)
        for number in range(2):
            places = (points[number], labels[number]) if "points" in given else None
            sparse, dense = stock.prompt_encoder(places, given.get("boxes", [None] * 2)[number], None)
            embedding = stock.image_encoder(((pictures[number : number + 1]) - sam.mean) / sam.std)
            low, quality = stock.mask_decoder.predict_masks(
                embedding, stock.prompt_encoder.get_dense_pe(), sparse, dense
            )
            large = nn.functional.interpolate(low, (128, 128), mode="bilinear", align_corners=False)
            torch.testing.assert_close(found.logits[number], large, atol=1e-4, rtol=1e-4)
            torch.testing.assert_close(found.quality[number], quality, atol=1e-4, rtol=1e-4)


def test_a_prompt_means_the_same_place_at_every_size():
    """A box in a picture of twice the size, twice as large: the same tokens."""
    from fedlit.networks.prompting import native

    sam = made()
    corners = torch.tensor([[[10.0, 20.0], [40.0, 50.0]]])
    twice = 2 * (corners + 0.5) - 0.5
    torch.testing.assert_close(
        native(sam, image(1, 1, 64, 64), corners), native(sam, image(1, 1, 128, 128), twice), atol=1e-4, rtol=0
    )


def test_prompts_that_say_nothing_are_refused():
    sam = made()
    for given in (
        {},
        {"points": torch.zeros(2, 1, 1, 2)},
        {"boxes": torch.zeros(2, 1, 4), "labels": torch.ones(2, 1, 1)},
    ):
        with pytest.raises(ValueError, match="a prompt is a box, or points with their labels"):
            prompted(sam, image(), **given)


# What every tuning keeps


@pytest.mark.parametrize("tuning", [tuning for tuning in TUNINGS if tuning != Full()], ids=repr)
def test_a_new_tuning_is_plain_sam(tuning):
    plain, tuned = made(Full(), 2), made(tuning, 2)
    tuned.load_state_dict(plain.state_dict(), strict=False)
    torch.testing.assert_close(tuned(image()), plain(image()), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("classes", [1, 2])
@pytest.mark.parametrize("tuning", TUNINGS, ids=repr)
def test_what_is_trained_has_a_gradient_and_what_is_frozen_stays(tuning, classes):
    """It may be zero (of one class, three of the four masks are not used): DDP never waits. Frozen bits never move."""
    sam = shaken(made(tuning, classes))
    before = {name: value.clone() for name, value in sam.state_dict().items()}
    optimizer = torch.optim.Adam([value for value in sam.parameters() if value.requires_grad], lr=1e-3)
    DiceBCE()(sam(image()), torch.ones(2, classes, 64, 64)).backward()
    for name, value in sam.named_parameters():
        assert (value.grad is not None) == value.requires_grad, name
    optimizer.step()
    trained = {name for name, value in sam.named_parameters() if value.requires_grad}
    moved = {name for name, value in sam.state_dict().items() if not torch.equal(value, before[name])}
    unused = {name for name in trained if not sam.get_parameter(name).grad.any()}
    assert moved == trained - unused
    hypernetworks = {name for name in trained if "hypernetworks_mlps" in name and ".0.layers" not in name}
    if classes == 1:
        assert hypernetworks <= unused
    else:
        assert not unused & hypernetworks


@pytest.mark.parametrize("tuning", TUNINGS, ids=repr)
def test_what_is_sent_is_what_is_trained(tuning):
    sam = made(tuning)
    assert set(Resident(sam).entries) == {name for name, value in sam.named_parameters() if value.requires_grad}


@pytest.mark.parametrize("tuning", TUNINGS, ids=repr)
def test_a_batch_is_a_loop_over_pictures(tuning):
    sam, pictures = shaken(made(tuning, 2)), image(3)
    alone = torch.cat([sam(picture[None]) for picture in pictures])
    torch.testing.assert_close(sam(pictures), alone, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("recompute", [False, True])
def test_recomputed_activations_give_the_same_gradients(recompute):
    sam, plain = shaken(made(Adapters(), recompute=recompute)), shaken(made(Adapters()))
    for network in (sam, plain):
        network(image()).square().mean().backward()
    for (name, ours), theirs in zip(sam.named_parameters(), plain.parameters(), strict=True):
        if ours.requires_grad:
            torch.testing.assert_close(ours.grad, theirs.grad, msg=name)


def test_recomputing_keeps_less():
    from fedlit.footprint import saved_bytes

    def kept(recompute):
        sam = made(recompute=recompute)
        return saved_bytes(lambda: sam(image()))

    assert kept(True) < 0.5 * kept(False)


@pytest.mark.parametrize("tuning", TUNINGS, ids=repr)
def test_bf16_is_within_a_hundredth(tuning):
    sam = shaken(made(tuning, 2))
    expected = sam(image())
    with torch.autocast("cpu", torch.bfloat16):
        found = sam(image()).float()
    assert (found - expected).norm() <= 1e-2 * expected.norm()


def test_float64_is_float32_but_for_rounding():
    sam = shaken(made(Adapters()))
    expected = sam(image())
    torch.testing.assert_close(sam.double()(image().double()).float(), expected, atol=1e-5, rtol=1e-5)


# Any picture


@pytest.mark.parametrize("size", [(128, 128), (64, 64), (50, 70), (8, 8), (3, 5), (130, 40)])
def test_any_size_in_is_the_same_size_out(size):
    logits = made(Adapters(), 2)(image(1, 1, *size))
    assert logits.shape == (1, 2, *size) and logits.isfinite().all()


def test_grey_is_three_equal_channels():
    sam = made()
    torch.testing.assert_close(sam(image()), sam(image().expand(-1, 3, -1, -1)))


def test_pixels_are_brought_to_the_mean_and_deviation_of_sam_or_left():
    sam, plain = made(), made(normalize=False)
    mean, deviation = (sam.get_buffer(name) for name in ("mean", "std"))
    torch.testing.assert_close(255 * mean.flatten(), torch.tensor([123.675, 116.28, 103.53]))
    torch.testing.assert_close(sam(image(channels=3)), plain((image(channels=3) - mean) / deviation))


def test_what_is_filled_up_lies_at_the_bottom_and_right():
    """A picture that ends in what is filled up (zeros, after normalising) has the logits of the shorter one."""
    sam = made(normalize=False)
    short = image(1, 1, 61, 59)
    long = nn.functional.pad(short, (0, 5, 0, 3))
    torch.testing.assert_close(sam(long)[..., :61, :59], sam(short))


# Refusals


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"in_channels": 2}, "set data.channels=3"),
        ({"size": "vit_x"}, "use one of vit_b, vit_l, vit_h, micro"),
        ({"attention": "fast"}, "use auto, headwise, folded, biased, flexed, or stock"),
        ({"tuning": LoRA(blocks=[4])}, "use numbers from 0 to 3"),
        ({"tuning": LoRA(blocks=[])}, "use numbers from 0 to 3"),
        ({"tuning": LoRA(), "attention": "stock"}, "no place for LoRA, which would learn nothing"),
        ({"tuning": Adapters(last=5)}, "use 1 to 4 blocks"),
        ({"cache": "fp16", "tuning": DecoderOnly()}, "use one of fp32, bf16"),
        ({"cache": "bf16", "tuning": Adapters()}, "tune the decoder alone or the last blocks"),
        ({"cache": "bf16"}, "tune the decoder alone or the last blocks"),
    ],
)
def test_what_cannot_be_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        SAM(**{"size": "micro", **settings})


@pytest.mark.parametrize("make", [lambda: LoRA(rank=0), lambda: Adapters(ratio=0)])
def test_a_tuning_without_width_is_refused(make):
    with pytest.raises(ValueError, match="is not allowed"):
        make()
