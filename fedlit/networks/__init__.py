"""The networks that clients train, from pictures to logits; any other `nn.Module` is named by `_target_`."""

from fedlit.networks.unet import UNet

__all__ = ["UNet"]
