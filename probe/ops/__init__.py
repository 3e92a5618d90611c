"""What a call is: its op with name and kind, a record of it, attention written as ops."""

from .attention_map import rows_of_map
from .functions import Op, describe, rectifies, tensors
from .multi_head import multi_head_attention
from .record import Edge, OpCall, OpInput, OpRecord
from .table import LINEAR, Kind, OpSpec, kind_of, spec_of
