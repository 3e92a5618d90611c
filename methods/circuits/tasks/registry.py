"""Tasks by name: generators of prompt pairs, options read from the signature.

    @task_maker("shout", of="logit")
    def shout(draw: random.Random, tokenizer: Tokenizer, *, loud: bool = True) -> Iterator[Prompt]:
        while True:
            yield Prompt("clean text", "corrupt text", (" right",), (" wrong",))

A maker never ends: `task` takes as many as it needs, tokenises them and leaves out repeats and what
does not align. Where it makes ids itself, it yields `Pair`s.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import ClassVar

from ....probe.attribution import Named, Registry
from ....probe.targets import Of
from .pairs import Pair
from .prompts import Prompt

Generator = Callable[..., Iterator[Prompt | Pair]]


@dataclass(frozen=True)
class TaskMaker(Named):
    """A registered task.

    of     whether its metric compares mean logits, `logit`, or summed probabilities, `probability`
    text   whether it writes prompts and so needs a tokenizer; else a vocabulary's size will do
    """

    of: Of
    text: bool

    noun: ClassVar[str] = "task"
    decorator: ClassVar[str] = "task_maker"


TASKS: Registry[TaskMaker] = Registry(TaskMaker, "limelight.methods", "limelight.tasks")


def task_maker(
    name: str, *, of: Of = "logit", text: bool = True
) -> Callable[[Generator], Generator]:
    """Register the generator below as a task: `f(draw, tokenizer, **options)` yields prompts.

    of    whether the metric compares mean logits, `logit`, or summed probabilities, `probability`
    text  False where it makes token ids itself: it is given the model's tokenizer, or where there
          is none the number of its tokens
    Raises MethodError for the name of another module's task.

    Example:
        >>> @ll.task_maker("echo", text=False)
        ... def echo(draw, tokenizer, *, length: int = 12):
        ...     "What followed a token follows it again."
        ...     while True:
        ...         first, answer, other, *rest = draw.sample(range(tokenizer), length)
        ...         clean, corrupt = ([first, a, *rest, first] for a in (answer, other))
        ...         yield ll.Pair(torch.tensor(clean), torch.tensor(corrupt), (answer,), (other,))
        >>> ll.task("echo:16", 64, count=4)
        Pairs('echo', 4 pairs, of='logit')
    """

    def register(function: Generator) -> Generator:
        TASKS.add(TaskMaker(name, function, of, text))
        return function

    return register


def list_tasks(pattern: str = "*") -> tuple[TaskMaker, ...]:
    """The registered tasks whose names match, sorted by name.

    Example:
        >>> sorted(t.name for t in ll.list_tasks())
        ['docstring', 'greater_than', 'induction', 'ioi']
    """
    return TASKS.matching(pattern)
