"""What a forward left behind: values, the trace, edits, tensors inside any container."""

from .edits import Edit, add, apply, freeze, mean, name_of, reads_channels, scale, swap, zero
from .map_rows import MapRows
from .module_call import Held, ModuleCall
from .pytree import exchange, first_tensor, leaves
from .trace import Trace
from .value import Hole, Value, any_stale, index_dim
