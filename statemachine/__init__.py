"""The decisions of a run: configuration, plan, lifecycle, runner and controller."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..events.lazy_imports import lazy_names

if TYPE_CHECKING:
    from ..events.model import RunState as RunState
    from ..events.model import StageType as StageType
    from ..events.model import StepProgress as StepProgress
    from .config.inputs import load_config as load_config
    from .config.schema import RunConfig as RunConfig
    from .errors import BackendAnswerError as BackendAnswerError
    from .errors import BackendError as BackendError
    from .errors import ConfigurationError as ConfigurationError
    from .errors import ControllerBusyError as ControllerBusyError
    from .errors import FieldError as FieldError
    from .errors import GenerationCancelled as GenerationCancelled
    from .errors import GenerationInterrupted as GenerationInterrupted
    from .errors import InputImageError as InputImageError
    from .errors import InvalidStagePlanError as InvalidStagePlanError
    from .errors import InvalidTransitionError as InvalidTransitionError
    from .errors import JobNotFoundError as JobNotFoundError
    from .errors import JobRefusedError as JobRefusedError
    from .errors import MissingImagesError as MissingImagesError
    from .errors import PreflightError as PreflightError
    from .errors import ResumeRefusedError as ResumeRefusedError
    from .errors import StageConflictError as StageConflictError
    from .groups.planning import GroupPlan as GroupPlan
    from .groups.result import GroupResult as GroupResult
    from .lifecycle import RunLifecycle as RunLifecycle
    from .plan.builder import build_stage_execution_plan as build_stage_execution_plan
    from .plan.plan import StageExecution as StageExecution
    from .plan.plan import StageExecutionPlan as StageExecutionPlan
    from .ports import GenerateAnswer as GenerateAnswer
    from .ports import GeneratedImage as GeneratedImage
    from .ports import GenerateRequest as GenerateRequest
    from .ports import ImageBackend as ImageBackend
    from .ports import ImageFacts as ImageFacts
    from .ports import InputReader as InputReader
    from .ports import SourceImage as SourceImage
    from .queue.job_order import Place as Place
    from .queue.job_queue import JobQueue as JobQueue
    from .queue.job_runner import SingleNodeJobRunner as SingleNodeJobRunner
    from .queue.new_jobs import NewJob as NewJob
    from .queue.new_jobs import plan_job as plan_job
    from .queue.new_jobs import plan_rerun_job as plan_rerun_job
    from .queue.new_jobs import plan_resume_job as plan_resume_job
    from .run.cancel_token import CancelToken as CancelToken
    from .run.controller import PipelineController as PipelineController
    from .run.handle import GroupHandle as GroupHandle
    from .run.handle import RunHandle as RunHandle
    from .run.runner import PipelineRunner as PipelineRunner
    from .stages.registry import register_stage as register_stage
    from .stages.stage import StageConfig as StageConfig
    from .states import TRANSITIONS as TRANSITIONS

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "plan.builder": ["build_stage_execution_plan"],
        "config.schema": ["RunConfig"],
        "errors": [
            "BackendAnswerError", "BackendError", "ConfigurationError", "ControllerBusyError",
            "FieldError", "GenerationCancelled", "GenerationInterrupted", "InputImageError",
            "InvalidStagePlanError", "InvalidTransitionError", "JobNotFoundError",
            "JobRefusedError", "MissingImagesError",
            "PreflightError", "ResumeRefusedError", "StageConflictError",
        ],
        "groups.planning": ["GroupPlan"],
        "groups.result": ["GroupResult"],
        "lifecycle": ["RunLifecycle"],
        "config.inputs": ["load_config"],
        "plan.plan": ["StageExecution", "StageExecutionPlan"],
        "ports": [
            "GenerateAnswer", "GenerateRequest", "GeneratedImage", "ImageBackend", "ImageFacts",
            "InputReader", "SourceImage", "StepProgress",
        ],
        "queue.job_order": ["Place"],
        "queue.job_queue": ["JobQueue"],
        "queue.job_runner": ["SingleNodeJobRunner"],
        "queue.new_jobs": ["NewJob", "plan_job", "plan_rerun_job", "plan_resume_job"],
        "run.cancel_token": ["CancelToken"],
        "run.controller": ["PipelineController"],
        "run.handle": ["GroupHandle", "RunHandle"],
        "run.runner": ["PipelineRunner"],
        "stages.registry": ["register_stage"],
        "stages.stage": ["StageConfig"],
        "states": ["TRANSITIONS", "RunState", "StageType"],
    },
)  # fmt: skip
