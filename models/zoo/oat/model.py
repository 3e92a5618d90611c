"""OAT as a model: a shelf, its target and the fixations so far give scores of the next object."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ....probe.errors import OptionError
from ....probe.mark import mark
from ...card import State
from .objects import ObjectEncoder
from .positions import PositionCodes, TimeCodes
from .readout import ObjectAttention
from .shelf import Grid
from .transformer import DecoderLayer, EncoderLayer, Layers


class Scene(NamedTuple):
    """A shelf that was looked at once: its objects `b p d`, the memory `b p+1 d`, the target."""

    objects: Tensor
    memory: Tensor
    target: Tensor


class OAT(nn.Module):
    """Scores `b n p+2` of what follows each of n ids: the p objects, the end, padding.

        model(shelf, target, sequence)

    shelf     `b p y x c`, pictures of the objects along the rows, each from its least value, 0, to
              its greatest, 1
    target    `b`, which object is searched for
    sequence  `b n`, ids of the fixations so far: `tokens` makes them of lists of objects

    Sites: `:objects`, `b rows columns d`, and `:target`, `b 1 d`, are the tokens that enter the
    encoder, `:fixations`, `b n d`, those of the decoder: relevance there says which of them drove
    a step, `ll.choice(step, object)`. `:choice`, `b n rows columns`, is the probability of each
    object at every step, `:end`, `b n`, that of the end, none before the first fixation.
    """

    def __init__(
        self,
        grid: Grid,
        cnn: ObjectEncoder,
        positions: PositionCodes,
        *,
        width: int,
        heads: int,
        hidden: int,
        encoder_layers: int,
        decoder_layers: int,
        dropout: float,
        readout_heads: int,
        readout_width: int,
        inputs: int,
    ) -> None:
        super().__init__()
        self.grid, self.positions = grid, positions
        sizes = width, heads, hidden, dropout
        self.transformer_encoder = Layers([EncoderLayer(*sizes) for _ in range(encoder_layers)])
        self.transformer_decoder = Layers([DecoderLayer(*sizes) for _ in range(decoder_layers)])
        self.generator = nn.Linear(width, grid.objects + 2)
        self.onedpositional_encoding = TimeCodes(width, dropout)
        self.cnn_embedding = cnn
        self.LinearEmbedding = nn.Linear(inputs, width // 2)
        if readout_heads:
            self.cross_attentions = nn.ModuleList(
                ObjectAttention(width, readout_width) for _ in range(readout_heads)
            )
        if readout_heads > 1:
            self.readout = nn.Linear(readout_heads, 1)
        self.readout_heads = readout_heads
        for weight in self.parameters():
            if weight.ndim > 1:
                nn.init.xavier_uniform_(weight)

    def convert_state(self, state: State) -> State:
        """Names without Lightning's `model.`, and without a read-out that this model has not."""
        state = {name.removeprefix("model."): x for name, x in state.items()}
        unused = {"readout": self.readout_heads < 2, "cross_attentions": not self.readout_heads}
        dropped = tuple(f"{part}." for part, is_unused in unused.items() if is_unused)
        return {name: x for name, x in state.items() if not name.startswith(dropped)}

    def forward(
        self, shelf: Tensor, target: Tensor, sequence: Tensor, *, blank: float = 1.0
    ) -> Tensor:
        """blank  the value of the empty picture that marks of a scanpath have"""
        return self.follow(self.see(shelf, target), sequence, blank=blank)

    def see(self, shelf: Tensor, target: Tensor) -> Scene:
        """Look at shelves once, for any number of scanpaths. Raises ModelError."""
        self.grid.check_shelf(shelf, target)
        self.cnn_embedding.check(shelf)
        objects = self.cnn_embedding(shelf)
        sought = _chosen(objects, target[:, None])
        every = torch.arange(self.grid.objects, device=shelf.device).expand(len(shelf), -1)
        tokens = self._placed(objects, every, torch.zeros_like(every))
        tokens = mark("objects", tokens.unflatten(1, (self.grid.rows, -1))).flatten(1, 2)
        own = self._placed(sought, target[:, None], torch.ones_like(target)[:, None])
        own = mark("target", own)
        return Scene(objects, self.transformer_encoder(torch.cat([tokens, own], 1)), target)

    def follow(self, scene: Scene, sequence: Tensor, *, blank: float = 1.0) -> Tensor:
        """Scores of what follows each id, `b n p+2`. Raises ModelError."""
        codes = self.onedpositional_encoding
        self.grid.check_sequence(sequence, len(scene.target), len(codes.pos_embedding))
        fixated = self._fixated(scene, sequence, blank)
        sought = (sequence == scene.target[:, None]).long()
        mark("gaze", self.grid.rested(sequence).to(fixated.dtype))
        x = mark("fixations", codes(self._placed(fixated, sequence, sought)))
        x = self.transformer_decoder(x, scene.memory, sequence != self.grid.padding)
        scores = self._scores(x, scene.memory)
        chances = self.chances(scores)
        mark("choice", chances[..., :-1].unflatten(-1, (self.grid.rows, self.grid.columns)))
        mark("end", chances[..., -1])
        return scores

    def _placed(self, objects: Tensor, ids: Tensor, sought: Tensor) -> Tensor:
        """Objects with their places beside them, `b n d`."""
        return torch.cat([objects, self.positions(*self.grid.places(ids), sought)], -1)

    def _fixated(self, scene: Scene, sequence: Tensor, blank: float) -> Tensor:
        """The pictures of ids as vectors; marks have an empty one."""
        cnn, like = self.cnn_embedding, scene.objects
        empty = cnn(like.new_full((1, 1, *cnn.patch, cnn.in_channels), blank))
        known = torch.cat([like, empty.expand(len(like), -1, -1)], 1)
        return _chosen(known, sequence.clamp(max=self.grid.objects))

    def _scores(self, decoded: Tensor, memory: Tensor) -> Tensor:
        if not self.readout_heads:
            return self.generator(decoded)
        heads = [head(decoded, memory) for head in self.cross_attentions]
        if self.readout_heads == 1:
            return heads[0]
        return self.readout(torch.stack(heads, -1))[..., 0]

    def chances(self, scores: Tensor) -> Tensor:
        """The probabilities `b n p+1` of objects and of the end, none before the first fixation.

        Scores are those from the first step on; padding has no chance.
        """
        first = torch.arange(scores.shape[1], device=scores.device)[:, None] == 0
        last = torch.arange(scores.shape[2] - 1, device=scores.device) == self.grid.end
        return scores[..., :-1].masked_fill(first & last, -torch.inf).softmax(-1)

    def tokens(self, paths: Sequence[Sequence[int]]) -> Tensor:
        """Scanpaths, lists of objects, as ids `b n`: begin, the objects, end, padding."""
        return self.grid.tokens(paths).to(self.generator.weight.device)

    def paths(self, sequence: Tensor) -> list[list[int]]:
        """The objects of each row of ids `b n`, up to its end."""
        return self.grid.paths(sequence)

    def loss(self, scores: Tensor, sequence: Tensor) -> Tensor:
        """The mean cross-entropy of what follows, for scores of all ids of a batch but its last.

        scores `b n p+2`, sequence `b n+1`; padding does not count.
        """
        follows = sequence[:, 1:]
        return F.cross_entropy(scores.mT, follows, ignore_index=self.grid.padding)

    @torch.no_grad()
    def generate(
        self,
        shelf: Tensor,
        target: Tensor,
        *,
        steps: int,
        samples: int | None = None,
        generator: torch.Generator | None = None,
        blank: float = 0.0,
    ) -> Tensor:
        """Scanpaths as ids, `b n`: begin, objects, and the end if it came within `steps`.

        samples    None takes the likeliest at each step; a number draws that many, `b samples n`
        steps      the most ids after the first; the paper takes the longest scanpath of training
        blank      of marks, 0 in the published generation but 1 in training
        Raises OptionError for fewer than one, or more steps than the model knows.
        """
        known = len(self.onedpositional_encoding.pos_embedding)
        if not 1 <= steps <= known or (samples is not None and samples < 1):
            raise OptionError(
                f"steps={steps!r} with samples={samples!r} was asked of generate: give 1 to "
                f"{known} steps, and one sample or more, or None for the likeliest"
            )
        scene = Scene(*(x.repeat_interleave(samples or 1, 0) for x in self.see(shelf, target)))
        ids = scene.target.new_full((len(scene.target), 1), self.grid.begin)
        for _ in range(steps):
            chances = self.chances(self.follow(scene, ids, blank=blank))[:, -1]
            if samples is None:
                following = chances.argmax(-1, keepdim=True)
            else:
                following = chances.float().multinomial(1, generator=generator)
            over = (ids[:, -1:] == self.grid.end) | (ids[:, -1:] == self.grid.padding)
            ids = torch.cat([ids, following.masked_fill(over, self.grid.padding)], 1)
            if bool((ids[:, -1] >= self.grid.end).all()):
                break
        return ids if samples is None else ids.unflatten(0, (-1, samples))


def _chosen(vectors: Tensor, which: Tensor) -> Tensor:
    """Some of the vectors `b m d`, by their numbers `b n`."""
    return vectors.gather(1, which[..., None].expand(-1, -1, vectors.shape[-1]))
