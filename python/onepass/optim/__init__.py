"""Optimizers with torch.optim's interface whose update of all parameters is one pass over memory."""

from onepass.optim import functional, lr_scheduler, schedules
from onepass.optim.adam import Adam
from onepass.optim.adamw import AdamW
from onepass.optim.apex import to_apex
from onepass.optim.clip_grad import clip_grad_norm_, clip_grad_value_
from onepass.optim.lion import Lion
from onepass.optim.no_decay import no_decay_groups
from onepass.optim.sgd import SGD

__all__ = [
    "SGD",
    "Adam",
    "AdamW",
    "Lion",
    "clip_grad_norm_",
    "clip_grad_value_",
    "functional",
    "lr_scheduler",
    "no_decay_groups",
    "schedules",
    "to_apex",
]
