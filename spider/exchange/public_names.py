"""What a pickle's modules have that the public codes' have not: what a fork may have added shows by its name.

Known are the names of attributes and arguments in the code of StyleGAN2-ADA (NVlabs/stylegan2-ada-pytorch,
training/networks.py), of StyleGAN3 (NVlabs/stylegan3, training/networks_stylegan2.py and networks_stylegan3.py) and of
StyleGAN-XL (autonomousvision/stylegan-xl, training/networks_stylegan3_resetting.py). A fork that changed only what
a class computes does not show: that stands in the source, which is not read.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from spider.exchange.persistent import PickledModule
from untrusted.terminal import one_line

_LONGEST = 60  # letters of a name that is told
_NAMES = """
    act_gain activation affine architecture b4 bandwidth bias bias_gain bias_init block_kwargs block_resolutions
    c_dim channel_base channel_max channels channels_last cmap_dim const conv conv0 conv1 conv_clamp conv_kernel
    down down_factor down_filter down_radial down_taps embed embed_features embed_proj epilogue_kwargs fc
    filter_size first_cutoff first_layer_idx first_stopband fp16_channels_last freeze_layers fromrgb
    fused_modconv_default group_size head_layer_names head_layers img_channels img_resolution img_resolution_log2
    in_channels in_cutoff in_features in_half_width in_sampling_rate in_size input is_critically_sampled is_last
    is_torgb kernel_size last_stopband_rel layer_features layer_kwargs layer_names lr_multiplier lrelu_upsampling
    magnitude_ema_beta mapping mapping_kwargs margin_size mbstd mbstd_group_size mbstd_num_channels noise_strength
    num_channels num_conv num_critical num_fp16_res num_layers num_torgb num_ws out out_channels out_cutoff
    out_features out_half_width out_sampling_rate out_size output_scale padding path_stem rand_embedding
    resample_filter resolution sampling_rate sampling_rates size skip synthesis synthesis_kwargs tmp_channels
    tmp_sampling_rate torgb training trainable up up_factor up_filter up_taps use_fp16 use_noise use_radial_filters
    w_avg_beta w_dim weight weight_gain weight_init z_dim
"""
_KNOWN = frozenset(_NAMES.split())


def unknown_names(network: PickledModule) -> list[str]:
    """Attributes and arguments, as CLASS.NAME, each once, of the modules that come with their source."""
    found = {
        f"{module.class_name}.{one_line(name[:_LONGEST])}": None
        for module in network.modules()
        if module.source is not None
        for name in (*_names(module.attributes), *_names(module.kwargs, inner=True))
        if not name.startswith("_") and name not in _KNOWN  # with an underscore: torch's own
    }
    return sorted(found)


def _names(held: Mapping[Any, Any], *, inner: bool = False) -> Iterator[str]:
    """Of a dict, and of the dicts within it, such as `synthesis_kwargs`."""
    for name, value in held.items():
        yield str(name)
        if inner and isinstance(value, dict):
            yield from map(str, value)
