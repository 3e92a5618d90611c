"""One forward, seen: hooks at modules, the mode over ops, requests, recording, state put back."""

from .claims import Claim, exclusive, keeps_model, release, take
from .forward import ForwardCapture, ForwardOptions
from .inputs import explained_input, input_name, input_tensors, is_tokens, movable_inputs
from .model_modules import ModelModules, argument_names, check_devices, takes_ids
from .model_state import guarded, keep_hooks, prepare
from .recording import Recording
from .replay import Replay
from .requests import Keep, Requests
from .undo import Undo, undoes
