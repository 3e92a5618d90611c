"""One forward, seen: hooks at modules, the mode over ops, requests, recording, state put back."""

from .claims import Claim, exclusive, keeps_model, release, take
from .inputs import lift, picture_size, starts_with_tokens
from .model_state import Undo, eager, guarded, prepare
from .module_hooks import Borders, Running, names_of
from .op_mode import Eye
from .recording import Recording, Stop
from .requests import Keep, Place, Wishes
