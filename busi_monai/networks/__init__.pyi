from .class_head import POOLINGS, ClassHead
from .cost import network_cost
from .decoder import Decoder, UNetDecoder
from .encoders import Encoder
from .ensembles import EnsembleNetwork
from .multitask import HeadOutput, MultiTaskUNet
from .pretrained import load_encoder_weights, load_initial_weights
from .registry import ENCODERS, build_encoder, register_encoder
from .two_stage import TwoStageNetwork
from .weights import load_weights, read_weights, save_tensors

__all__ = [
    "ENCODERS",
    "POOLINGS",
    "ClassHead",
    "Decoder",
    "Encoder",
    "EnsembleNetwork",
    "HeadOutput",
    "MultiTaskUNet",
    "TwoStageNetwork",
    "UNetDecoder",
    "build_encoder",
    "load_encoder_weights",
    "load_initial_weights",
    "load_weights",
    "network_cost",
    "read_weights",
    "register_encoder",
    "save_tensors",
]
