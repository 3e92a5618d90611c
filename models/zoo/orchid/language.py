"""A masked language model on Orchid: BERT's embeddings, pre-norm blocks, tied output weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ....probe.errors import OptionError
from ...card import ENERGIES, FILTERS, MAPS, Card
from ...layers import Checkpointing, init_weights
from ...registry import Variant, register
from .blocks import orchid_blocks
from .operator import FIXED, PAPER


class OrchidLanguageModel(Checkpointing, nn.Module):
    """Token ids `b n` in, logits `b n vocabulary` out, each from all tokens, padding among them."""

    def __init__(
        self,
        blocks: Sequence[nn.Module],
        *,
        vocab_size: int,
        l_max: int,
        d_model: int,
        dropout: float,
        eps: float,
    ) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(vocab_size, d_model)
        self.position_embeddings = nn.Embedding(l_max, d_model)
        self.embed_norm, self.dropout = nn.LayerNorm(d_model, eps), nn.Dropout(dropout)
        self.blocks = nn.ModuleList(blocks)
        self.norm = nn.LayerNorm(d_model, eps)
        self.lm_head = nn.Linear(d_model, vocab_size, bias=False)
        draw = partial(nn.init.normal_, std=0.02)
        for part in (self.word_embeddings, self.position_embeddings):
            init_weights(part, nn.Embedding, draw=draw)
        for block in self.blocks:
            init_weights(block.mlp, nn.Linear, draw=draw)  # type: ignore[arg-type]
        self.lm_head.weight = self.word_embeddings.weight

    def forward(self, ids: Tensor) -> Tensor:
        n, most = ids.shape[-1], self.position_embeddings.num_embeddings
        if n > most:
            raise OptionError(
                f"{n} tokens were given, but this model has l_max={most}: give fewer, or build it "
                "with a larger l_max"
            )
        words = self.word_embeddings(ids)  # the first embedding is where relevance ends
        places = self.position_embeddings(torch.arange(n, device=ids.device))
        x = self.dropout(self.embed_norm(words + places))
        for block in self.blocks:
            x = self.through(block, x)
        return self.lm_head(self.norm(x))


def orchid_bert(
    *,
    vocab_size: int = 30522,
    d_model: int = 768,
    depth: int = 12,
    mlp_ratio: float = 4.0,
    norm_eps: float = 1e-12,
    dropout: float = 0.1,
    drop_path: float = 0.0,
    l_max: int = 128,
    filter_order: int = 64,
    residual_long_conv: str | None = "sconv",
    short_filter_order: int = 3,
    emb_dim: int = 3,
    num_inner_mlps: int = 2,
    w: float = 10,
    causal: bool = False,
    dxt: str = "fft",
    conv_kernel: Mapping[str, Any] | None = None,
    lr: float | None = None,
    lr_pos_emb: float | None = 1e-5,
) -> OrchidLanguageModel:
    """A language model that fills in tokens; what predicts the next would see it.

    l_max    tokens at most, learned positions among them
    dropout  behind the embeddings
    causal   False: the convolution goes round, so that nothing hides what comes later
    The others are those of `OrchidOperator`.
    """
    if causal:
        raise OptionError(
            "causal=True was asked of a language model on Orchid, whose convolution goes round and "
            "sees later tokens all the same: leave it out, and train on masked tokens"
        )
    options = {
        "l_max": l_max,
        "filter_order": filter_order,
        "residual_long_conv": residual_long_conv,
        "short_filter_order": short_filter_order,
        "emb_dim": emb_dim,
        "num_inner_mlps": num_inner_mlps,
        "w": w,
        "causal": causal,
        "dxt": dxt,
        "conv_kernel": conv_kernel,
        "lr": lr,
        "lr_pos_emb": lr_pos_emb,
    }
    blocks = orchid_blocks(
        d_model, depth, options, mlp_ratio=mlp_ratio, norm_eps=norm_eps, drop_path=drop_path
    )
    return OrchidLanguageModel(
        blocks,
        vocab_size=vocab_size,
        l_max=l_max,
        d_model=d_model,
        dropout=dropout,
        eps=norm_eps,
    )


register(
    orchid_bert,
    Card(
        "Orchid-BERT",
        PAPER,
        hidden=("blocks.*",),
        heads=("blocks.*.attn",),
        prefix=0,
        classifier="lm_head",
        labels="",
        shows=(MAPS, FILTERS, ENERGIES),
        about="token ids in, for masked tokens: no causal training, for the convolution goes round "
        "and sees later tokens; only the operator was published, the trunk is built after the "
        "paper; no weights",
    ),
    [
        Variant("orchid_bert_base"),
        Variant("orchid_bert_large", build={"d_model": 960}),
    ],
    fixed=FIXED,
)
