"""Which rule tells what an autograd node says of the dimensions it returns and is given.

A rule takes the node, the dimensions of what its inputs were (None for constants), and which of
the node's outputs is meant. It names axes that are still nameless: a convolution takes channels at
its second dimension, whatever made them.
"""

from __future__ import annotations

from .layer_rules import (
    attention,
    channels_last,
    channels_second,
    columns,
    convolution,
    folded,
    grouped,
    mixer,
    over_places,
    padded,
    product,
    recurrent,
    shuffled,
)
from .naming import Rule
from .shape_rules import (
    broadcast,
    chosen_apart,
    complex_pairs,
    concatenate,
    expand,
    index,
    index_select,
    narrow,
    permute,
    real_pairs,
    reduce,
    repeat,
    reversed_pair,
    same,
    select,
    slice_of,
    squeeze,
    stack,
    strided,
    transpose,
    unsqueeze,
    view,
    windows,
)

_SAME = """
    Abs Acos Acosh Angle Asin Asinh Atan Atanh Ceil Celu Clamp ClampMax ClampMin Clone Conj
    ConjPhysical Cos Cosh Cumsum Cumprod Cummax Cummin Digamma Elu Erf Erfc Erfinv Exp Exp2 Expm1
    Flip Floor Frac Gelu Hardshrink Hardsigmoid Hardswish Hardtanh LeakyRelu Lgamma Log Log10 Log1P
    Log2 LogSigmoid LogSoftmax Logcumsumexp Logit Mish NanToNum NativeDropout Neg Reciprocal Relu
    SafeSoftmax RreluWithNoise Roll Round Rsqrt Sgn Sigmoid Sign Silu Sin Sinc Sinh
    Softmax Softplus Softshrink Sqrt Tan Tanh Threshold ToCopy Tril Triu Trunc Alias
    MaskedFill MaskedScatter IndexFill IndexAdd IndexCopy IndexPut IndexPutImpl ScatterAdd
    Scatter ScatterReduce SelectScatter SliceScatter Fill Renorm FftC2C
    _MixedByTiles
"""


def _rules() -> dict[str, Rule]:
    table: dict[str, Rule] = dict.fromkeys((*_SAME.split(), "torch::autograd::CopySlices"), same)
    for rule, stems in (
        (broadcast, "Add Sub Rsub Mul Div Atan2 Addcmul Addcdiv Lerp Where Maximum Minimum Fmax "
                    "Fmin PreluKernel Hypot Remainder Fmod Xlogy Logaddexp Copysign "
                    "Complex Polar Copy Pow"),
        (expand, "Expand"),
        (view, "View UnsafeView ReshapeAlias"),
        (permute, "Permute"),
        (transpose, "Transpose"),
        (reversed_pair, "T"),
        (unsqueeze, "Unsqueeze"),
        (squeeze, "Squeeze"),
        (repeat, "Repeat"),
        (select, "Select Unbind"),
        (slice_of, "Slice"),
        (narrow, "Split UnsafeSplit SplitWithSizes UnsafeSplitWithSizes"),
        (index, "Index UnsafeIndex"),
        (index_select, "IndexSelect"),
        (chosen_apart, "Gather Topk Sort"),
        (reduce, "Mean Sum Nansum Amax Amin Max Min Aminmax Median Mode Kthvalue Prod Std Var "
                 "StdMean VarMean Norm LinalgVectorNorm Logsumexp"),
        (concatenate, "Cat"),
        (stack, "Stack"),
        (windows, "Unfold"),
        (columns, "Im2Col"),
        (folded, "Col2Im"),
        (shuffled, "PixelShuffle PixelUnshuffle"),
        (padded, "ConstantPadNd Glu FftR2C FftC2R"),
        (convolution, "Convolution ConvolutionOverrideable CudnnConvolution MkldnnConvolution "
                      "MiopenConvolution SlowConv2D ConvDepthwise2D"),
        (channels_second, "NativeBatchNorm CudnnBatchNorm MiopenBatchNorm NativeGroupNorm"),
        (channels_last, "NativeLayerNorm FusedRmsNorm"),
        (product(0), "Mm Bmm Mv Dot"),
        (product(1), "Addmm Baddbmm Addmv"),
        (grouped, "GroupedMm"),
        (attention, "ScaledDotProductFlashAttentionForCpu ScaledDotProductFlashAttention "
                    "ScaledDotProductEfficientAttention ScaledDotProductCudnnAttention "
                    "ScaledDotProductFusedAttentionOverrideable _Fused"),
        (recurrent, "MkldnnRnnLayer"),
        (strided, "AsStrided"),
        (mixer, "_Launch"),
        (real_pairs, "ViewAsReal"),
        (complex_pairs, "ViewAsComplex"),
    ):  # fmt: skip
        table.update(dict.fromkeys(stems.split(), rule))
    for d in (1, 2, 3):
        names = f"ReflectionPad{d}D ReplicationPad{d}D UpsampleNearest{d}D UpsampleNearestExact{d}D"
        if d > 1:  # of a series they work on a picture of one row
            names += f" AdaptiveAvgPool{d}D AdaptiveMaxPool{d}D AvgPool{d}D GridSampler{d}D"
            names += (
                f" MaxPool{d}DWithIndices FractionalMaxPool{d}D MaxUnpool{d}D MkldnnMaxPool{d}D"
            )
        table.update(dict.fromkeys(names.split(), over_places(d)))
    more = "UpsampleLinear1D UpsampleBilinear2D UpsampleBicubic2D UpsampleTrilinear3D"
    more += " UpsampleBilinear2DAa UpsampleBicubic2DAa"
    for stem in more.split():
        table[stem] = over_places(int(stem[stem.index("D") - 1]))
    return table


RULES = _rules()
