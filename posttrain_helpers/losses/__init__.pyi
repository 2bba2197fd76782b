from .advantages import masked_whiten as masked_whiten
from .kl import k1_estimate as k1_estimate
from .kl import k3_estimate as k3_estimate
from .policy import clipped_policy_loss as clipped_policy_loss
from .policy import token_log_probs as token_log_probs
from .preference import dpo_loss as dpo_loss
