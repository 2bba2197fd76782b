from .manifest import stage_path as stage_path
