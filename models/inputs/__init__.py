"""Photos and labels: read, and prepared as the model wants them."""

from .drawing import drawn
from .examples import example
from .images import SUFFIXES, Picture, images, read
from .labels import Labels, class_index, class_names, imagenet_names, labels
from .options import Numbers, PreprocessingOptions, Sides, fitted
from .paths import address_fault, missing
from .prepare import FILTERS, Box, PreparedPhoto, geometry, prepare, preprocess
from .preprocessing import Preprocessing, Transform, preprocessing_of, transform_name
from .trial import input_for
