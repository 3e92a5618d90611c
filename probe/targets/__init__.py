"""What is explained: one scalar a sample."""

from .asked import targets
from .class_scores import by_name, picked, scores
from .comparison import difference, similar
from .parse import class_in, target_in, value_in
from .parts import part_at
from .places import box, peak, pixel, region
from .reading import Given, Reading
from .scalar import Target
from .scale import Of, scaled
from .target import choice, contrast, label, margin, ranked, token, top
