from .profiles import get_profile as get_profile
from .profiles import ready_made_models as ready_made_models
from .runtime import setup as setup
from .runtime import trainer_defaults as trainer_defaults
