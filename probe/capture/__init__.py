"""One forward, seen: hooks at modules, the mode over ops, requests, recording, state put back."""

from .inputs import lift, picture_size, starts_with_tokens
from .model_state import eager, guarded
from .module_hooks import Borders, Running, names_of
from .op_mode import Eye
from .recording import Recording, Stop
from .requests import Keep, Place, Wishes
