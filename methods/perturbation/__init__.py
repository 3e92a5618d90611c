"""Methods that change the input and watch the score."""

from .occlusion import want_pictures
