from .fresh_seeds import check_claims as check_claims
from .results import save_figure as save_figure
from .results import write_results as write_results
