"""The latency table of the VanillaNet paper, and how each of its nets is built here.

Source: "VanillaNet: the Power of Minimalism in Deep Learning" (arXiv 2305.12972), the table of nets by depth and
latency: A100, eager PyTorch, batch 1, 224 px, the mean of 1,000 calls each waited for.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class PaperNet:
    """One row.

    Attributes:
        name: as the paper has it.
        net: as ``vnas.profiler`` names it.
        depth: layers, as the paper counts them.
        gmacs: multiply-accumulates, in 10^9, which the paper calls FLOPs.
        a100_ms: latency on an A100.
        reparameterised: the training form's branches are merged first.
    """

    name: str
    net: str
    depth: int
    gmacs: float
    a100_ms: float
    reparameterised: bool = False


PAPER = (
    PaperNet("VanillaNet-5", "vanillanet_5", 5, 5.17, 1.61),
    PaperNet("VanillaNet-6", "vanillanet_6", 6, 5.99, 2.01),
    PaperNet("VanillaNet-7", "vanillanet_7", 7, 6.90, 2.27),
    PaperNet("VanillaNet-8", "vanillanet_8", 8, 7.7, 2.56),
    PaperNet("VanillaNet-9", "vanillanet_9", 9, 8.6, 2.91),
    PaperNet("VanillaNet-10", "vanillanet_10", 10, 9.4, 3.24),
    PaperNet("VanillaNet-11", "vanillanet_11", 11, 10.3, 3.59),
    PaperNet("VanillaNet-12", "vanillanet_12", 12, 11.1, 3.82),
    PaperNet("VanillaNet-13", "vanillanet_13", 13, 11.94, 4.26),
    PaperNet("VanillaNet-13-1.5x", "vanillanet_13_x1_5", 13, 26.5, 7.83),
    PaperNet("MobileNetV3-Small", "timm:mobilenetv3_small_100", 48, 0.06, 6.65),
    PaperNet("MobileNetV3-Large", "timm:mobilenetv3_large_100", 48, 0.22, 7.83),
    PaperNet("ShuffleNetV2x1.5", "torchvision:shufflenet_v2_x1_5", 51, 0.30, 7.23),
    PaperNet("ShuffleNetV2x2", "torchvision:shufflenet_v2_x2_0", 51, 0.58, 7.84),
    PaperNet("RepVGG-A0", "timm:repvgg_a0", 23, 1.36, 3.22, reparameterised=True),
    PaperNet("RepVGG-A1", "timm:repvgg_a1", 23, 2.37, 3.24, reparameterised=True),
    PaperNet("RepVGG-B0", "timm:repvgg_b0", 29, 3.1, 3.88, reparameterised=True),
    PaperNet("RepVGG-B3", "timm:repvgg_b3", 29, 26.2, 4.21, reparameterised=True),
    PaperNet("ConvNeXtV2-A", "timm:convnextv2_atto", 41, 0.55, 6.07),
    PaperNet("ConvNeXtV2-F", "timm:convnextv2_femto", 41, 0.78, 6.17),
    PaperNet("ConvNeXtV2-P", "timm:convnextv2_pico", 41, 1.37, 6.29),
    PaperNet("ConvNeXtV2-N", "timm:convnextv2_nano", 47, 2.45, 6.85),
    PaperNet("ConvNeXtV2-T", "timm:convnextv2_tiny", 59, 4.47, 8.40),
    PaperNet("ConvNeXtV2-B", "timm:convnextv2_base", 113, 15.4, 15.41),
    PaperNet("Swin-T", "timm:swin_tiny_patch4_window7_224", 48, 4.5, 10.51),
    PaperNet("Swin-S", "timm:swin_small_patch4_window7_224", 96, 8.7, 20.25),
    PaperNet("ResNet-18", "timm:resnet18", 18, 1.8, 3.12),
    PaperNet("ResNet-34", "timm:resnet34", 34, 3.7, 5.57),
    PaperNet("ResNet-50", "timm:resnet50", 50, 4.1, 7.64),
    PaperNet("ResNet-101", "timm:resnet101", 101, 8.0, 15.35),
    PaperNet("ResNet-152", "timm:resnet152", 152, 11.5, 22.19),
)
