from .exercises import check_answer as check_answer
