"""Maps of a data set to Parquet: plan, loader, worker, engines, store."""

from .folder import put_aside
from .plan import RunPlan, as_dtype, describe_preparation, describe_target
from .plan_file import merged, read_plan
from .run import Run, run
from .sealing import SealError, seal, unseal
from .store import FOLDER, Row, part_path, part_paths, part_source
