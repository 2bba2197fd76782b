from .board.board import Board as Board
from .board.plots import plot_leaderboard as plot_leaderboard
from .board.plots import plot_retention as plot_retention
from .judges.by_score import reward_model_judge as reward_model_judge
from .judges.language_model import LanguageModelJudge as LanguageModelJudge
from .runner import evaluate as evaluate
from .suites.loading import load_suites as load_suites
from .suites.loading import retention_documents as retention_documents
