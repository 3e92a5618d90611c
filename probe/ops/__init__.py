"""What a call is: its name and kind, a record of it, attention written as ops."""

from .attention_map import rows_of_map, some_rows, whole_map
from .kinds import LINEAR, kept, kind_of
from .multi_head import multi_head_attention
from .record import Call, Edge, Operand, OpRecord, keep, operand, wide
from .table import RESHAPES, Op, describe, rectifies, tensors
