"""Photos and labels: read, and prepared as the model wants them."""

from .images import SUFFIXES, Picture, images, read
from .labels import class_index, imagenet_names, labels
from .prepare import Box, PreparedPhoto, input_for, prepare, preprocess
from .preprocessing import Preprocessing, preprocessing_of
