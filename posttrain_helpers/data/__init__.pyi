from .loading import load_data as load_data
