"""The networks that clients train, from pictures to logits; any other `nn.Module` is named by `_target_`."""

from fedlit.networks.sam import SAM
from fedlit.networks.tuning import Adapters, DecoderOnly, Full, LoRA
from fedlit.networks.unet import UNet

__all__ = ["SAM", "Adapters", "DecoderOnly", "Full", "LoRA", "UNet"]
