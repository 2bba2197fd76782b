from .fresh_seeds import check_claims as check_claims
from .results import show_figure as show_figure
from .results import write_results as write_results
