"""Maps of a data set to Parquet: plan, loader, worker, engines, store."""

from .loader import is_ready
from .plan import RunPlan, describe_preprocessing
from .plan_file import merged, read_plan
from .run import Run, run
from .store import FOLDER, Row, part_path, part_paths
