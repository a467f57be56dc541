"""How the micro SAM that ships with fedlit was made: it has learnt from drawn pictures alone."""

from fedlit.micro_sam.embedded import embedded_teacher

__all__ = ["embedded_teacher"]
