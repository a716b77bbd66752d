"""Workflows: steps that turn atoms into atoms. Their results are cached in the sweeps' store.

def train(
config: TrainConfig, input_atoms: dict[str, Atom], temp_workspace: Path
) -> list[AtomConstructor]:
…
return [AtomConstructor("model", temp_workspace / "model", "model")]

workflow = Workflow("train_and_evaluate", [Step("train", train), Step("evaluate", evaluate)])
config = Config(train=TrainConfig(n_epochs=3), evaluate=EvaluateConfig())
state = run_workflow(workflow, {"dataset": atom.id}, config)
state["evaluate"].output_atoms["results"]
"""

from mosweep.workflow.atoms import Atom, DatasetAtom, EvalAtom, ModelAtom
from mosweep.workflow.running import run_workflow, run_workflow_async
from mosweep.workflow.state import StepState, WorkflowError, WorkflowState
from mosweep.workflow.steps import AtomConstructor, Step, StepConfig, Workflow, WorkflowConfig

__all__ = [
    "Atom",
    "AtomConstructor",
    "DatasetAtom",
    "EvalAtom",
    "ModelAtom",
    "Step",
    "StepConfig",
    "StepState",
    "Workflow",
    "WorkflowConfig",
    "WorkflowError",
    "WorkflowState",
    "run_workflow",
    "run_workflow_async",
]
