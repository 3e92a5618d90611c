"""What the census finds out about one architecture."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, fields

STAGES = ("building", "a plain run", "a probed run", "axes", "maps", "relevance", "done")


@dataclass
class Row:
    """One architecture; what was not reached keeps its default.

    fed         the shape of its input
    stage       how far it came; "skipped" where it could not be built or run
    difference  largest change of an output under the probe, relative to the largest value
    holes       nodes of the graph that no op accounts for, by name
    known, refused  hidden sites whose axes are known, and those refused by name
    unreached   hidden sites that this input does not reach
    refusal     the first refusal in words
    unsaid      why axes were refused: nodes at which the reading lost them, by count of sites
    unruled     nodes of the graph that no rule speaks of
    gradient    how the map at the input agrees with plain autograd
    maps        maps of hirescam and normgrad at two hidden sites
    relevance   "closes", or the ops that leak, or why it is refused
    faults      what must not be
    reason      why a stage was not reached, or a model was skipped
    """

    source: str
    family: str
    name: str
    fed: str = ""
    stage: str = STAGES[0]
    parameters: int = 0
    seconds: float = 0.0
    difference: float | None = None
    holes: list[str] = field(default_factory=list)
    known: int = 0
    refused: int = 0
    unreached: int = 0
    refusal: str = ""
    unsaid: dict[str, int] = field(default_factory=dict)
    unruled: list[str] = field(default_factory=list)
    gradient: str = ""
    maps: str = ""
    relevance: str = ""
    faults: list[str] = field(default_factory=list)
    reason: str = ""

    @property
    def key(self) -> str:
        return f"{self.source} {self.name}"

    def line(self) -> str:
        return json.dumps(asdict(self))

    @staticmethod
    def of(line: str) -> Row:
        known = {f.name for f in fields(Row)}
        return Row(**{k: v for k, v in json.loads(line).items() if k in known})
