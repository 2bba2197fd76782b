from .monitor import MemoryMonitor as MemoryMonitor
from .monitor import load_ipython_extension as load_ipython_extension
