"""The stages of a run: one module for each, and the registry."""

from __future__ import annotations

from .adetailer import AdetailerConfig as AdetailerConfig
from .adetailer import AdetailerPass as AdetailerPass
from .img2img import Img2ImgConfig as Img2ImgConfig
from .registry import load_stages as load_stages
from .registry import read_config as read_config
from .registry import register_stage as register_stage
from .registry import stage_types as stage_types
from .sampling import RefinerConfig as RefinerConfig
from .stage import StageConfig as StageConfig
from .txt2img import HiresConfig as HiresConfig
from .txt2img import Txt2ImgConfig as Txt2ImgConfig
from .upscale import UpscaleConfig as UpscaleConfig
