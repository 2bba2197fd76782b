from .compare import Comparison as Comparison
from .compare import compare_generations as compare_generations
