"""What architectures share: norms, MLPs, blocks, activations, positions."""

from .activations import ACTIVATIONS
from .attention import Attention
from .block import Block
from .checkpointing import Checkpointing
from .conv_norm_act import ConvNormAct
from .drop_path import drop_rates, dropped
from .init import init_linear
from .language_model import GatedMlp, LanguageModel, Trunk, activation, in_trunk
from .mlp import Mlp, SwiGLU
from .norms import ChannelNorm, NormAct
from .patch_embed import PatchEmbed
from .pooling import POOLS
from .positions import Grid, grid_of, resize_positions, square_grid
from .rotary_attention import RotaryAttention
from .sequence import Memory, RmsNorm, pads_back, pads_first
from .squeeze_excite import SqueezeExcite, divisible
