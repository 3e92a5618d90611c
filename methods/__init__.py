"""Methods: one file each, registered on import; nothing here imports more than torch and numpy."""

from . import captum, circuits, meta
from .attention import (
    foveal,
    locality,
    logits,
    masks,
    recurrent,
    rollout,
    sequence_heads,
    signed_maps,
    transformer_attribution,
)
from .cam import (
    activation,
    band_energy,
    cam,
    eigencam,
    eigengradcam,
    gradcam,
    gradcam_plus_plus,
    hirescam,
    layercam,
    xgradcam,
)
from .combine import combine
from .gradients import (
    deconvnet,
    gradient,
    guided_backprop,
    input_x_gradient,
    integrated_gradients,
    smoothgrad,
)
from .metrics import complexity, faithfulness, localisation, similarity, smooth, spectrum
from .normgrad import normgrad
from .normgrad import own_convolution as normgrad_proper
from .perturbation import occlusion, rise
from .relevance import excitation, foci, lrp, salient_relevance

__all__ = [
    "activation",
    "band_energy",
    "cam",
    "captum",
    "circuits",
    "combine",
    "complexity",
    "deconvnet",
    "eigencam",
    "eigengradcam",
    "excitation",
    "faithfulness",
    "foveal",
    "gradcam",
    "gradcam_plus_plus",
    "gradient",
    "guided_backprop",
    "hirescam",
    "input_x_gradient",
    "integrated_gradients",
    "layercam",
    "localisation",
    "locality",
    "logits",
    "lrp",
    "masks",
    "meta",
    "normgrad",
    "normgrad_proper",
    "occlusion",
    "recurrent",
    "rise",
    "rollout",
    "salient_relevance",
    "sequence_heads",
    "signed_maps",
    "similarity",
    "smooth",
    "smoothgrad",
    "spectrum",
    "transformer_attribution",
    "xgradcam",
]
