"""The segmenters: torchvision's Mask R-CNN on several backbones, and where their weights come from."""

from collections import OrderedDict
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn
from torchvision.models import MobileNet_V3_Large_Weights, ResNet18_Weights, ResNet50_Weights
from torchvision.models.detection import MaskRCNN, MaskRCNN_ResNet50_FPN_V2_Weights, maskrcnn_resnet50_fpn_v2
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import (
    BackboneWithFPN,
    mobilenet_backbone,
    resnet_fpn_backbone,
)
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.models.resnet import BasicBlock
from torchvision.ops import Conv2dNormActivation, FrozenBatchNorm2d, MultiScaleRoIAlign

from segment.samples import CLASSES
from support.checkpoints import find_checkpoint
from support.errors import InputError

ARCHS = (
    "maskrcnn_resnet50_fpn_v2",
    "maskrcnn_resnet18_fpn",
    "maskrcnn_mobilenet_v3_fpn",
    "maskrcnn_small_fpn",
)
_LEVELS = ["0", "1", "2", "3"]  # of the pyramid, strides 4 to 32
_SMALL_STAGES = (32, 64, 128, 192)  # channels of the small arch's backbone, strides 4 to 32
_SMALL_WIDTH = 48  # channels of its pyramid and heads


def group_norm(channels: int) -> nn.GroupNorm:
    """Eight channels a group, which every backbone here divides into: its batches are too small for more."""
    return nn.GroupNorm(channels // 8, channels)


def build(arch: str, weights: str) -> MaskRCNN:
    """An arch of ARCHS for CLASSES; weights: none, imagenet (the backbone), coco, or a checkpoint's path.

    Images are taken at the size they have. Raises InputError for weights that can't be had.
    """
    try:
        if arch == "maskrcnn_resnet50_fpn_v2":
            model = _resnet50(weights)
        elif weights == "coco":
            raise InputError(f"--weights coco: there are none for {arch}, only for {ARCHS[0]}")
        elif arch == "maskrcnn_resnet18_fpn":
            model = _resnet18(weights)
        elif arch == "maskrcnn_mobilenet_v3_fpn":
            model = _mobilenet(weights)
        elif weights == "imagenet":
            raise InputError(f"--weights imagenet: there are none for {arch}; give none")
        else:
            model = _small()
    except (OSError, RuntimeError) as error:  # of the download, or a file that it left half-done
        reason = " ".join(str(error).split())
        raise InputError(
            f"--weights {weights}: can't be downloaded ({reason}); put the file into torch.hub's folder"
            f" ({torch.hub.get_dir()}/checkpoints), or give --weights none"
        ) from None
    model.transform = AsTheyAre(1, 1, model.transform.image_mean, model.transform.image_std)
    if weights not in ("none", "imagenet", "coco"):
        model.load_state_dict(read_weights(weights, arch))
    return model


class AsTheyAre(GeneralizedRCNNTransform):
    """torchvision's preparation of images without its resizing: they come at the size that is wanted."""

    def resize(self, image: Tensor, target: dict[str, Tensor] | None = None):
        return image, target


def read_weights(path: str, arch: str) -> dict[str, Tensor]:
    """The weights in a checkpoint of `scripts.segment`, or in a file of weights alone.

    Raises InputError if they are not those of this arch and of CLASSES.
    """
    if not Path(path).exists():
        raise InputError(f"--weights {path}: no such file; give none, imagenet, coco or a file")
    file = find_checkpoint(path)
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a foreign file makes of it
        raise InputError(
            f"{file}: can't be read as weights ({type(error).__name__}); choose another"
        ) from None
    networks = state.get("networks", state) if isinstance(state, dict) else {}
    scores = networks.get("roi_heads.box_predictor.cls_score.weight")
    if scores is None:
        raise InputError(f"{file}: holds no weights of a Mask R-CNN; give a checkpoint of scripts.segment")
    if len(scores) != len(CLASSES):
        raise InputError(
            f"{file}: knows {len(scores)} classes, these data have {len(CLASSES)} (with the background); give"
            " a checkpoint of the same classes"
        )
    wanted = build(arch, "none").state_dict()
    if {k: v.shape for k, v in networks.items()} != {k: v.shape for k, v in wanted.items()}:
        raise InputError(f"{file}: holds weights of another arch than {arch}; give that one as --arch")
    return networks


def _resnet50(weights: str) -> MaskRCNN:
    all_weights = MaskRCNN_ResNet50_FPN_V2_Weights.COCO_V1 if weights == "coco" else None
    backbone = ResNet50_Weights.IMAGENET1K_V1 if weights == "imagenet" else None
    model = maskrcnn_resnet50_fpn_v2(
        weights=all_weights, weights_backbone=backbone, num_classes=None if all_weights else len(CLASSES)
    )
    if all_weights:
        heads = model.roi_heads
        heads.box_predictor = FastRCNNPredictor(heads.box_predictor.cls_score.in_features, len(CLASSES))
        channels = heads.mask_predictor.conv5_mask.in_channels
        heads.mask_predictor = MaskRCNNPredictor(channels, channels, len(CLASSES))
    return model


def _norm_and_layers(weights: str, layers: int) -> dict:
    """Frozen batch norm and trained upper layers where there are weights; else group norm and all layers."""
    if weights == "imagenet":
        return {"norm_layer": FrozenBatchNorm2d, "trainable_layers": 3}
    return {"norm_layer": group_norm, "trainable_layers": layers}


def _resnet18(weights: str) -> MaskRCNN:
    pretrained = ResNet18_Weights.IMAGENET1K_V1 if weights == "imagenet" else None
    settings = {"weights": pretrained, **_norm_and_layers(weights, 5)}
    backbone = resnet_fpn_backbone(backbone_name="resnet18", **settings)
    return MaskRCNN(backbone, len(CLASSES), rpn_anchor_generator=_anchors())


def _mobilenet(weights: str) -> MaskRCNN:
    pretrained = MobileNet_V3_Large_Weights.IMAGENET1K_V1 if weights == "imagenet" else None
    backbone = mobilenet_backbone(
        backbone_name="mobilenet_v3_large",
        weights=pretrained,
        fpn=True,
        returned_layers=[1, 2, 3, 5],
        **_norm_and_layers(weights, 6),
    )
    return MaskRCNN(backbone, len(CLASSES), rpn_anchor_generator=_anchors())


def _small() -> MaskRCNN:
    """A narrow backbone of one residual block a stage, a narrow pyramid, small heads: learns on a CPU."""
    stages, before = {"stem": _stem(_SMALL_STAGES[0])}, _SMALL_STAGES[0]
    for number, channels in enumerate(_SMALL_STAGES, 1):
        stages[f"layer{number}"] = _block(before, channels)
        before = channels
    layers = {f"layer{number}": level for number, level in enumerate(_LEVELS, 1)}
    width = _SMALL_WIDTH
    backbone = BackboneWithFPN(
        nn.Sequential(OrderedDict(stages)), layers, list(_SMALL_STAGES), width, norm_layer=group_norm
    )
    return MaskRCNN(
        backbone,
        rpn_anchor_generator=_anchors(),
        rpn_pre_nms_top_n_train=400,
        rpn_post_nms_top_n_train=200,
        rpn_pre_nms_top_n_test=1000,
        rpn_post_nms_top_n_test=300,
        box_roi_pool=MultiScaleRoIAlign(_LEVELS, 7, 2),
        box_head=TwoMLPHead(width * 7 * 7, 256),
        box_predictor=FastRCNNPredictor(256, len(CLASSES)),
        box_batch_size_per_image=64,
        box_detections_per_img=100,
        mask_roi_pool=MultiScaleRoIAlign(_LEVELS, 14, 2),
        mask_head=MaskRCNNHeads(width, (width, width), 1, norm_layer=group_norm),
        mask_predictor=MaskRCNNPredictor(width, width, len(CLASSES)),
    )


def _stem(channels: int) -> nn.Sequential:
    """Two convolutions that halve the image."""
    sizes = pairwise((3, channels // 2, channels))
    return nn.Sequential(*(Conv2dNormActivation(*both, stride=2, norm_layer=group_norm) for both in sizes))


def _block(before: int, channels: int) -> BasicBlock:
    """A residual block; one that changes the number of channels halves the map too."""
    if before == channels:
        return BasicBlock(channels, channels, norm_layer=group_norm)
    shortcut = Conv2dNormActivation(before, channels, 1, 2, norm_layer=group_norm, activation_layer=None)
    return BasicBlock(before, channels, 2, shortcut, norm_layer=group_norm)


def _anchors() -> AnchorGenerator:
    """For images of 384 to 1024 pixels' width, whose persons are from 15 pixels high and narrow."""
    return AnchorGenerator(tuple((size,) for size in (16, 32, 64, 128, 256)), ((0.5, 1.0, 2.0, 3.5),) * 5)
