from .profiles import get_profile as get_profile
from .runtime import setup as setup
from .runtime import trainer_defaults as trainer_defaults
