"""What relevance rules call an op: its kind, by name and, where the name does not say, by call."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...kernels.kernel import FACES
from .table import RECTIFIERS

if TYPE_CHECKING:
    pass

# Of each kind, the ops that are called so.
_WORDS = {
    # values are moved, picked or repeated: the transposed move conserves relevance itself
    "move": """
        cat stack hstack vstack dstack column_stack getitem setitem copy clone contiguous to
        type_as float double half bfloat16 type view reshape flatten unflatten squeeze
        unsqueeze permute transpose t movedim expand repeat repeat_interleave tile
        broadcast_to broadcast_tensors chunk split split_with_sizes tensor_split hsplit
        vsplit unbind narrow select slice index_select index take gather take_along_dim
        masked_fill masked_select where pad constant_pad_nd roll flip fliplr flipud rot90
        unfold pixel_shuffle pixel_unshuffle channel_shuffle native_channel_shuffle
        max_pool1d max_pool3d max_pool2d_with_indices max_pool1d_with_indices
        max_pool3d_with_indices adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d
        fractional_max_pool2d max min amax amin topk sort median dropout dropout1d dropout2d
        dropout3d alpha_dropout feature_dropout feature_alpha_dropout embedding tril triu
        diag diagonal diag_embed scatter index_copy index_put zero fill detach mark identity
        nan_to_num requires_grad cpu cuda atleast_1d atleast_2d atleast_3d ravel as_strided
        meshgrid new_tensor alias unsafe_view unsafe_chunk unsafe_split to_dense empty_like
        zeros_like ones_like full_like new_zeros new_ones new_full new_empty index_fill
        squeeze_copy block_diag cartesian_prod triu_indices
    """,
    # linear, or choosing a winner: the plain gradient conserves x g
    "gradient": """
        add sub neg positive sum mean nanmean nansum fold interpolate upsample
        upsample_bilinear upsample_nearest grid_sample affine_grid avg_pool1d avg_pool2d
        avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d maximum
        minimum fmax fmin relu threshold leaky_relu embedding_bag cumsum diff index_add
        scatter_add scatter_reduce lerp trace logsumexp log_softmax real imag view_as_real
        view_as_complex complex conj resolve_conj resolve_neg istft stft fft ifft rfft irfft
        fft2 ifft2 rfft2 irfft2 fftn ifftn rfftn irfftn hfft ihfft fftshift ifftshift
        fft_fft fft_ifft fft_rfft fft_irfft fft_fft2 fft_ifft2 fft_rfft2 fft_irfft2 fft_fftn
        fft_ifftn fft_rfftn fft_irfftn fft_fftshift fft_ifftshift fft_hfft fft_ihfft
    """,
    "pass": """
        relu6 hardtanh tanh softsign tanhshrink hardshrink softshrink square abs sin cos
        atan asinh log log1p log2 log10 clamp clamp_min clamp_max expm1 normalize logsigmoid
        floor round ceil trunc local_response_norm sinh
    """,
    "statistic": """
        rsqrt sqrt reciprocal var std var_mean std_mean norm exp exp2 cosh vector_norm
        linalg_vector_norm linalg_norm matrix_norm linalg_matrix_norm cosine_similarity
        cdist argmax
    """,
    "product": """
        mul matmul einsum bilinear outer inner tensordot addmm baddbmm addbmm addmv addcmul
        kron chain_matmul linalg_multi_dot ger
    """,
    "softmax": "softmax softmin softmax2d",
    "gate": "sigmoid hardsigmoid expit special_expit erf",
    "norm": "layer_norm group_norm instance_norm rms_norm",
    "batch_norm": "batch_norm",
    "quotient": "div",
    "glu": "glu",
    "max_pool": "max_pool2d",
    "linear": "linear",
    "attention": "scaled_dot_product_attention",
}
_KINDS = {
    **dict.fromkeys((*RECTIFIERS, "pow"), "pass"),
    **{name: kind for kind, names in _WORDS.items() for name in names.split()},
}
LINEAR = ("conv", "linear")


def kind_of(name: str) -> str:
    """What a rule calls an op: conv, linear, pass, product, ..., `none` for an unknown one."""
    if name in FACES:
        return "mixer"
    return "conv" if name.startswith("conv") and name[-1] == "d" else _KINDS.get(name, "none")


def kept(name: str) -> bool:
    """Whether an op's rule needs something of the forward beyond the graph."""
    return kind_of(name) != "move"


def operands_needed(name: str) -> bool:
    """Whether that is more than its result."""
    return name == "add" or kind_of(name) not in ("move", "gradient", "statistic")
