"""Many maps from few passes: batches, plan, runner, the calls of users."""

from .batch import Batch, chunks, inputs
from .functional import about_model, ledger, maps, maps_and_output, patch, plan, trace
from .membership import told_apart
from .runner import Runner
from .settled import given_to, settled
