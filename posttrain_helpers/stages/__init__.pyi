from .build import build_stage as build_stage
from .build import load_stage as load_stage
from .build import resolve_model as resolve_model
from .loading import load_model_and_tokenizer as load_model_and_tokenizer
from .samples import Sample as Sample
from .samples import sample_replies as sample_replies
from .save import save_stage as save_stage
