"""Concept DAS: a learned direction steers a language model towards a concept and away from it."""

__version__ = "0.1.0"

from concept_das.data.chat_format import ChatFormat
from concept_das.data.quadruples import Quadruple, read_quadruples, split_quadruples
from concept_das.data.shipped import shipped_instructions
from concept_das.errors import InputError, TrainingError, VectorMismatchError
from concept_das.evaluation.recovery import Evaluation, evaluate
from concept_das.experiments.making import make_quadruples
from concept_das.methods import METHODS, find_method, register
from concept_das.methods.settings import TrainingConfig
from concept_das.models.blocks import Site, find_site
from concept_das.models.loading import LoadedModel, load_model
from concept_das.steering.artifact import Artifact, load_vector
from concept_das.steering.context import Steering, steer
from concept_das.steering.generation import generate_responses
from concept_das.steering.intervenable import from_intervenable
from concept_das.steering.vector import SteeringVector
from concept_das.training.batch_loss import EngineOptions
from concept_das.training.loop import train_direction, train_directions
from concept_das.training.vectors import ConceptRows, train_vector, train_vectors

__all__ = [
    "METHODS",
    "Artifact",
    "ChatFormat",
    "ConceptRows",
    "EngineOptions",
    "Evaluation",
    "InputError",
    "LoadedModel",
    "Quadruple",
    "Site",
    "Steering",
    "SteeringVector",
    "TrainingConfig",
    "TrainingError",
    "VectorMismatchError",
    "evaluate",
    "find_method",
    "find_site",
    "from_intervenable",
    "generate_responses",
    "load_model",
    "load_vector",
    "make_quadruples",
    "read_quadruples",
    "register",
    "shipped_instructions",
    "split_quadruples",
    "steer",
    "train_direction",
    "train_directions",
    "train_vector",
    "train_vectors",
]
