from .loading import load_data as load_data
from .loading import raw_rows as raw_rows
