from .exercises import check as check
