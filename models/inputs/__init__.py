"""Photos and labels: read, and prepared as the model wants them."""

from .images import SUFFIXES, Picture, images, read
from .labels import class_index, imagenet_names, labels
from .preprocess import Box, crop_image, make_ready, prepare, preprocess
from .recipe import Recipe, recipe
