from .functions import reward_functions as reward_functions
from .reward_model import as_reward_function as as_reward_function
from .reward_model import check_scored_token as check_scored_token
from .reward_model import score_replies as score_replies
from .verifiers import boxed_format as boxed_format
from .verifiers import equations_right as equations_right
from .verifiers import exact_answer as exact_answer
from .verifiers import worked_format as worked_format
