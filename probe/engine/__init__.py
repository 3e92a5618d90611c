"""Many maps from few passes: batches, plan, runner, the calls of users."""

from .batch import Batch, chunks, inputs
from .foreign_errors import worded
from .functional import ledger, maps, maps_and_output, patch, plan, trace
from .membership import told_apart
from .moved_inputs import MovedInput
from .provenance import about_model, check_seed
from .runner import Runner
from .settled import given_to, settled
