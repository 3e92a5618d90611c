"""Where: addresses, what a model family calls its layers, its tokens, its classes."""

from .adapter import Adapter, adapt, adapter
from .initial_weights import RANDOM, has_initial_weights, remember_initial
from .module_tree import UNCHANGED, ModuleTree, modules_by_path, tree_of
from .positions import LONGEST, check_length, positions
from .resolve import Address, AddressLike, addresses, named, resolve
from .scripted import ScriptShell, hookable, is_script, sealed
from .shape import ReadShapes, Shape, detections
from .site import HEAD_PORTS, Pattern, Site, no_match, parse, part_of_model
from .structure import attention, blocks, expand, first_norm, layers, prefix_tokens, without_map
from .tokenizer import BpeTokenizer, Tokenizer, checked_ids, tokenizer_of, unreadable
