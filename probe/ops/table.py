"""The table of ops: what the probe knows of each, a row an op.

A row says what an op is called, how its arguments are named and what kind of op it is; the kind
decides how relevance goes through it. An op that no row names has the kind `none`. A new op of a
known kind is one row here; a new kind is one more function in relevance/op_rules.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ...kernels.kernel import FACES

Kind = Literal[
    "move", "gradient", "pass", "statistic", "product", "softmax", "gate", "norm", "batch_norm",
    "quotient", "glu", "max_pool", "sample", "conv", "linear", "attention", "mixer", "none",
]  # fmt: skip
LINEAR = ("conv", "linear")


@dataclass(frozen=True, slots=True)
class OpSpec:
    """One op.

    name        what sites and rules call it
    kind        how relevance goes through it
    spellings   other names of torch functions, methods and attributes that compute it
    parameters  its arguments in the order of their places, where a rule reads them
    rectifies   whether it is ReLU-like: it keeps what is positive and dampens what is not; or the
                name of the argument that makes it so when it is 0
    reshapes    whether its in-place form writes no value, but a shape, a flag or a storage
    constant    what may keep relevance for itself: a shift of its `own`, or an `input` that does
                not depend on the network's
    """

    name: str
    kind: Kind
    spellings: tuple[str, ...] = ()
    parameters: tuple[str, ...] = ()
    rectifies: bool | str = False
    reshapes: bool = False
    constant: Literal["", "own", "input"] = ""

    @property
    def has_rule(self) -> bool:
        """Whether its rule needs something of the forward beyond the graph."""
        return self.kind != "move"

    @property
    def reads_inputs(self) -> bool:
        """Whether that is more than its result."""
        return bool(self.parameters) or self.kind not in ("move", "gradient", "statistic")


def op(
    kind: Kind,
    name: str,
    spellings: str = "",
    *,
    parameters: str = "",
    rectifies: bool | str = False,
    reshapes: bool = False,
    constant: Literal["", "own", "input"] = "",
) -> OpSpec:
    """A row of the table; spellings and parameters are separated by spaces."""
    named = tuple(spellings.split()), tuple(parameters.split())
    return OpSpec(name, kind, *named, rectifies, reshapes, constant)


def ops(kind: Kind, names: str) -> tuple[OpSpec, ...]:
    """Rows of ops that have nothing but a name and a kind."""
    return tuple(OpSpec(name, kind) for name in names.split())


_CONV = "input weight bias stride padding dilation groups"
_CONV_TRANSPOSE = "input weight bias stride padding output_padding groups dilation"

ROWS: tuple[OpSpec, ...] = (
    # values are moved, picked or repeated: the transposed move conserves relevance itself
    op("move", "cat", "concat concatenate", constant="input"),
    op("move", "stack", constant="input"),
    op("move", "transpose", "swapaxes swapdims T mT H mH", reshapes=True),
    op("move", "t", reshapes=True),
    op("move", "squeeze", reshapes=True),
    op("move", "unsqueeze", reshapes=True),
    op("move", "as_strided", reshapes=True),
    op("move", "detach", reshapes=True),
    op("move", "reshape", "reshape_as"),
    op("move", "view", "view_as"),
    op("move", "expand", "expand_as"),
    op("move", "pad", constant="own"),
    op("move", "constant_pad_nd", constant="own"),
    op("move", "movedim", "moveaxis"),
    *ops("move", """
        hstack vstack dstack column_stack getitem setitem copy clone contiguous to type_as float
        double half bfloat16 type flatten unflatten permute repeat repeat_interleave tile
        broadcast_to broadcast_tensors chunk split split_with_sizes tensor_split hsplit vsplit
        unbind narrow select slice index_select index take gather take_along_dim masked_fill
        masked_select where roll flip fliplr flipud rot90 unfold pixel_shuffle
        pixel_unshuffle channel_shuffle native_channel_shuffle max_pool1d max_pool3d
        max_pool2d_with_indices max_pool1d_with_indices max_pool3d_with_indices adaptive_max_pool1d
        adaptive_max_pool2d adaptive_max_pool3d fractional_max_pool2d max min amax amin topk sort
        median dropout dropout1d dropout2d dropout3d alpha_dropout feature_dropout
        feature_alpha_dropout embedding tril triu diag diagonal diag_embed scatter index_copy
        index_put zero fill mark identity nan_to_num requires_grad cpu cuda atleast_1d atleast_2d
        atleast_3d ravel meshgrid new_tensor alias unsafe_view unsafe_chunk unsafe_split to_dense
        empty_like zeros_like ones_like full_like new_zeros new_ones new_full new_empty index_fill
        squeeze_copy block_diag cartesian_prod triu_indices
    """),
    # linear, or choosing a winner: the plain gradient conserves x g
    op("gradient", "add", "iadd radd", parameters="input other", constant="input"),
    op("gradient", "sub", "isub rsub subtract", parameters="input other", constant="input"),
    op("gradient", "neg", "negative"),
    op("gradient", "conj", "conj_physical"),
    op("gradient", "relu", rectifies=True),
    op("gradient", "leaky_relu", rectifies=True),
    op("gradient", "threshold", rectifies=True),
    op("gradient", "log_softmax", "special_log_softmax"),
    *ops("gradient", """
        positive sum mean nanmean nansum fold interpolate upsample upsample_bilinear
        upsample_nearest affine_grid avg_pool1d avg_pool2d avg_pool3d
        adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d maximum minimum fmax fmin
        embedding_bag cumsum diff index_add scatter_add scatter_reduce lerp trace logsumexp real
        imag view_as_real view_as_complex complex resolve_conj resolve_neg istft stft fft_fft
        fft_ifft fft_rfft fft_irfft fft_fft2 fft_ifft2 fft_rfft2 fft_irfft2 fft_fftn fft_ifftn
        fft_rfftn fft_irfftn fft_fftshift fft_ifftshift fft_hfft fft_ihfft
    """),
    # elementwise functions: R passes unchanged
    op("pass", "pow", "rpow ipow", parameters="input exponent"),
    op("pass", "abs", "absolute"),
    op("pass", "clamp", "clip", rectifies="min"),
    op("pass", "clamp_min", rectifies="min"),
    op("pass", "hardtanh", rectifies="min_val"),
    op("pass", "relu6", rectifies=True),
    op("pass", "elu", rectifies=True),
    op("pass", "selu", rectifies=True),
    op("pass", "celu", rectifies=True),
    op("pass", "gelu", rectifies=True),
    op("pass", "silu", rectifies=True),
    op("pass", "mish", rectifies=True),
    op("pass", "hardswish", rectifies=True),
    op("pass", "softplus", rectifies=True),
    op("pass", "prelu", rectifies=True),
    op("pass", "rrelu", rectifies=True),
    *ops("pass", """
        tanh softsign tanhshrink hardshrink softshrink square sin cos atan asinh log log1p log2
        log10 clamp_max expm1 normalize logsigmoid floor round ceil trunc local_response_norm sinh
    """),
    # what scales other values: their spread, length or likeness
    *ops("statistic", """
        rsqrt sqrt reciprocal var std var_mean std_mean norm exp exp2 cosh vector_norm
        linalg_vector_norm linalg_norm matrix_norm linalg_matrix_norm cosine_similarity cdist argmax
    """),
    # products: each factor takes an equal share; linear where the other factor is a constant
    op("product", "mul", "imul rmul multiply", parameters="input other"),
    op("product", "matmul", "mm bmm rmatmul imatmul mv dot", parameters="input other"),
    op("product", "einsum", parameters="equation"),
    op("product", "addmm", parameters="bias input other"),
    *ops("product", """
        bilinear outer inner tensordot baddbmm addbmm addmv addcmul kron chain_matmul
        linalg_multi_dot ger
    """),
    op("quotient", "div", "truediv itruediv rtruediv rdiv idiv true_divide divide",
       parameters="input other"),
    # maps and gates
    op("softmax", "softmax", "special_softmax"),
    *ops("softmax", "softmin softmax2d"),
    op("gate", "sigmoid", "special_expit expit"),
    *ops("gate", "hardsigmoid erf"),
    op("glu", "glu", parameters="input dim"),
    op("attention", "scaled_dot_product_attention",
       parameters="query key value attn_mask dropout_p is_causal scale enable_gqa"),
    # norms
    op("norm", "layer_norm", parameters="input normalized_shape weight bias eps", constant="own"),
    op("norm", "group_norm", parameters="input num_groups weight bias eps", constant="own"),
    op("norm", "rms_norm", parameters="input normalized_shape weight eps", constant="own"),
    op("norm", "instance_norm", constant="own",
       parameters="input running_mean running_var weight bias use_input_stats momentum eps"),
    op("batch_norm", "batch_norm", constant="own",
       parameters="input running_mean running_var weight bias training momentum eps"),
    # layers
    op("linear", "linear", parameters="input weight bias"),
    op("linear", "grouped_mm", parameters="input weight"),
    op("conv", "conv1d", parameters=_CONV),
    op("conv", "conv2d", parameters=_CONV),
    op("conv", "conv3d", parameters=_CONV),
    op("conv", "conv_transpose1d", parameters=_CONV_TRANSPOSE),
    op("conv", "conv_transpose2d", parameters=_CONV_TRANSPOSE),
    op("conv", "conv_transpose3d", parameters=_CONV_TRANSPOSE),
    op("max_pool", "max_pool2d",
       parameters="input kernel_size stride padding dilation ceil_mode"),
    # read at places that are held: linear in what is read
    op("sample", "grid_sample", "grid_sampler grid_sampler_2d grid_sampler_3d",
       parameters="input grid", constant="input"),
    # no rule, but something to know
    op("none", "acos", "arccos"),
    op("none", "resize", reshapes=True),
    op("none", "resize_as", reshapes=True),
    op("none", "set", reshapes=True),
)  # fmt: skip

SPECS: dict[str, OpSpec] = {row.name: row for row in ROWS}
_NAMES: dict[str, str] = {spelling: row.name for row in ROWS for spelling in row.spellings}


def name_of(spelling: str) -> str:
    """The one name of an op, by any of its spellings."""
    return _NAMES.get(spelling, spelling)


def spec_of(name: str) -> OpSpec:
    """The row of an op; a kernel's and an unknown op's say no more than the kind."""
    if name in FACES:
        return OpSpec(name, "mixer")
    return SPECS.get(name) or OpSpec(name, "none")


def kind_of(name: str) -> str:
    """What a rule calls an op: conv, linear, pass, product, ..., `none` for an unknown one."""
    return spec_of(name).kind
