"""The published program's names of our parameters, as the parity files use them."""

from torch import nn

# The published program's names of the networks; a layer is `<network>/<layer>.weight` or `.bias`.
PUBLISHED_NETWORKS = {"d_stn": "disSTN", "d_where": "disWhere", "d_obj": "disObj", "d_what": "disWhat"}


def published_names(networks: nn.ModuleDict) -> dict[str, str]:
    """Our parameter name -> the published one.

    For example "where_encoder.first.weight" -> "where_encoder/conv0.0.weight". Both list the layers of a
    network in the same order; only the last ones have special names. (The published where_encoder_sup
    also holds a conv1.0 that it never uses; ours has none.)
    """
    names = {}
    for network_name, network in networks.items():
        layers = list(dict.fromkeys(name.rpartition(".")[0] for name, _ in network.named_parameters()))
        published = _published_layers(network_name, len(layers))
        for ours, theirs in zip(layers, published, strict=True):
            for kind in ("weight", "bias"):
                network_published = PUBLISHED_NETWORKS.get(network_name, network_name)
                names[f"{network_name}.{ours}.{kind}"] = f"{network_published}/{theirs}.{kind}"
    return names


def _published_layers(network: str, count: int) -> list[str]:
    if network in ("where_encoder", "what_encoder"):
        return [*(f"conv{layer}.0" for layer in range(count - 2)), "conv7.0", "reconz.1"]
    if network in ("where_encoder_sup", "what_encoder_sup"):
        return [*(f"conv{layer}.0" for layer in range(count - 2)), "fc_mu.0", "fc_logvar.0"]
    if network in ("where_reconstructor", "what_reconstructor"):
        return [*(f"convT{layer}.0" for layer in range(count - 1)), "convT7.0"]
    if network == "generator":
        return [f"convT{layer}.0" for layer in range(count)]
    if network == "stn":
        return ["fc.0", "fc.2", "fc_loc"]
    return [f"conv{layer}.0" for layer in range(count)]
