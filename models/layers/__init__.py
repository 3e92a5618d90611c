"""What architectures share: norms, MLPs, blocks, activations, positions."""

from .activations import activation
from .attention import (
    Attention,
    KanAttention,
    KanOperator,
    KanOptions,
    RotaryAttention,
    SigmoidAttention,
    attention_width,
)
from .block import Block, ScaledBlock
from .checkpointing import Checkpointing
from .convolutions import (
    BasicBlock,
    Bottleneck,
    ConvNormAct,
    SameAvgPool2d,
    SameConv2d,
    shortcut,
)
from .drop_path import drop_rates, dropped
from .filters import HyenaFilter, Modulation, Positions, check_length
from .gates import (
    ULSAM,
    LittleAttention,
    PolarizedAttention,
    SqueezeExcite,
    Subspace,
    divisible,
    gate,
    spatial_mask,
)
from .init import init_weights
from .language_model import LanguageModel, Trunk, config_activation, in_trunk, kept_tokens
from .mlp import GatedMlp, Mlp, NestedMlp
from .norms import ChannelNorm, LayerScale, NormAct, RmsNorm
from .patch_embed import PatchEmbed, PatchMean
from .pooling import pooling
from .positions import (
    GridSize,
    check_grid,
    fit_positions,
    grid_of,
    offset_bias,
    resize_offsets,
    resize_positions,
    square_grid,
)
from .sequence import Cache, Memory, pads_back, pads_first
