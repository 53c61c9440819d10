"""Segmenters of transformers as small as they can be, random, saved as real ones are."""

import json
from pathlib import Path

import torch

NAMES = [
    *("road", "sidewalk", "building", "wall", "fence", "pole", "traffic light", "traffic sign", "vegetation"),
    *("terrain", "sky", "person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle"),
]
HEADS = ("mask2former", "oneformer", "segformer")
SIDE = {"shortest_edge": 64, "longest_edge": 128}


def build(head: str, names: list[str] | None = None) -> torch.nn.Module:
    """A random network of a head with Cityscapes' classes, or others."""
    import transformers

    torch.manual_seed(0)
    names = names or NAMES
    classes = {"id2label": dict(enumerate(names)), "label2id": {name: k for k, name in enumerate(names)}}
    if head == "segformer":
        sizes = {"depths": [1] * 4, "hidden_sizes": [8, 8, 16, 16], "num_attention_heads": [1, 1, 2, 2]}
        config = transformers.SegformerConfig(decoder_hidden_size=16, **sizes, **classes)
        return transformers.SegformerForSemanticSegmentation(config).eval()
    swin = transformers.SwinConfig(
        image_size=64,
        embed_dim=16,
        depths=[1] * 4,
        num_heads=[2] * 4,
        window_size=4,
        out_features=[f"stage{number}" for number in range(1, 5)],
    )
    sizes = {"hidden_dim": 32, "encoder_feedforward_dim": 32, "dim_feedforward": 32, "num_queries": 8}
    sizes |= {"encoder_layers": 1, "decoder_layers": 2, "num_attention_heads": 2, "backbone_config": swin}
    if head == "mask2former":
        config = transformers.Mask2FormerConfig(feature_size=32, mask_feature_size=32, **sizes, **classes)
        return transformers.Mask2FormerForUniversalSegmentation(config).eval()
    text = {"text_encoder_width": 64, "text_encoder_num_layers": 1, "text_encoder_vocab_size": 100}
    config = transformers.OneFormerConfig(
        conv_dim=32, mask_dim=32, query_dec_layers=1, is_training=True, **text, **sizes, **classes
    )
    return transformers.OneFormerForUniversalSegmentation(config).eval()


def save(head: str, folder: Path, network: torch.nn.Module | None = None) -> Path:
    """A folder with a network, what prepares pictures for it, and what a OneFormer reads its task with."""
    import transformers

    (network or build(head)).save_pretrained(folder)
    if head == "mask2former":
        transformers.Mask2FormerImageProcessor(size=SIDE, num_labels=19).save_pretrained(folder)
    elif head == "segformer":
        transformers.SegformerImageProcessor(size={"height": 64, "width": 128}).save_pretrained(folder)
    else:
        transformers.OneFormerImageProcessor(size=SIDE, num_text=4).save_pretrained(folder)
        path = (
            folder / "preprocessor_config.json"
        )  # on the hub it names a file of classes that lies elsewhere
        content = json.loads(path.read_text()) | {"class_info_file": "cityscapes_panoptic.json"}
        path.write_text(json.dumps(content))
        save_tokenizer(folder)
    return folder


def save_tokenizer(folder: Path) -> None:
    """A CLIP tokenizer that knows single letters."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    words = ["<|startoftext|>", "<|endoftext|>", *letters, *(f"{letter}</w>" for letter in letters)]
    (folder / "vocab.json").write_text(json.dumps({word: number for number, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    ends = {"bos_token": words[0], "eos_token": words[1], "pad_token": words[1], "unk_token": words[1]}
    settings = {"tokenizer_class": "CLIPTokenizer", "model_max_length": 77, **ends}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


@torch.no_grad()
def says_everywhere(network: torch.nn.Module, class_number: int) -> torch.nn.Module:
    """The network with its last layers set so that it is sure of one class, whatever the picture."""
    layers = dict(network.named_modules())
    if "decode_head.classifier" in layers:
        _set_constant(layers["decode_head.classifier"], class_number)
        return network
    of_class = ("class_predictor", "model.transformer_module.decoder.class_embed")
    _set_constant(next(layers[name] for name in of_class if name in layers), class_number)
    decoder = "model.transformer_module.decoder"
    of_mask = (f"{decoder}.mask_predictor.mask_embedder.2.0", f"{decoder}.mask_embed.layers.2.0")
    _set_constant(next(layers[name] for name in of_mask if name in layers), 0)
    _set_constant(layers["model.pixel_level_module.decoder.mask_projection"], 0)
    return network


def _set_constant(layer: torch.nn.Module, place: int) -> None:
    """A layer that gives 9 at one place and 0 elsewhere."""
    layer.weight.zero_()
    layer.bias.zero_()
    layer.bias[place] = 9
