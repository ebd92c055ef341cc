"""Multitask U-Nets: encoders, decoders and heads."""

from __future__ import annotations

from busi_monai.networks.class_head import POOLINGS, ClassHead
from busi_monai.networks.cost import network_cost
from busi_monai.networks.decoder import Decoder, UNetDecoder
from busi_monai.networks.dynunet import DynUNetEncoder
from busi_monai.networks.efficientnet_lite import EfficientNetLiteEncoder
from busi_monai.networks.encoders import ENCODERS, Encoder, build_encoder, register_encoder
from busi_monai.networks.ensembles import EnsembleNetwork
from busi_monai.networks.library_encoders import SmpEncoder, TimmEncoder
from busi_monai.networks.monai_unets import BasicUNetEncoder, MonaiUNetEncoder
from busi_monai.networks.multitask import HeadOutput, MultiTaskUNet
from busi_monai.networks.nested_unet import BasicUNetPlusPlusEncoder
from busi_monai.networks.pretrained import load_encoder_weights
from busi_monai.networks.segresnet import SegResNetEncoder
from busi_monai.networks.two_stage import TwoStageNetwork
from busi_monai.networks.weights import load_weights

__all__ = [
    "ENCODERS",
    "POOLINGS",
    "BasicUNetEncoder",
    "BasicUNetPlusPlusEncoder",
    "ClassHead",
    "Decoder",
    "DynUNetEncoder",
    "EfficientNetLiteEncoder",
    "Encoder",
    "EnsembleNetwork",
    "HeadOutput",
    "MonaiUNetEncoder",
    "MultiTaskUNet",
    "SegResNetEncoder",
    "SmpEncoder",
    "TimmEncoder",
    "TwoStageNetwork",
    "UNetDecoder",
    "build_encoder",
    "load_encoder_weights",
    "load_weights",
    "network_cost",
    "register_encoder",
]
