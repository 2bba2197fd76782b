from .ppo.config import PPOConfig as PPOConfig
from .ppo.trainer import PPOTrainer as PPOTrainer
from .regularized_sft import RegularizedSFTTrainer as RegularizedSFTTrainer
from .regularized_sft_config import RegularizedSFTConfig as RegularizedSFTConfig
from .trainer import check_trainer as check_trainer
from .trainer import make_trainer as make_trainer
from .trainer import train as train
