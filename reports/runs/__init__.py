"""Maps of a data set to Parquet: plan, loader, worker, engines, store."""

from .plan import RunPlan
from .plan_file import merged, read_plan
from .run import Run, run
from .store import FOLDER, Row, map_of, part_path
from .worker import input_of
