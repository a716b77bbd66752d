"""mosweep's sweeper, launcher and config source, in the form that Hydra expects.

They only adapt: ``mosweep.design`` does the work.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra._internal.core_plugins.file_config_source import FileConfigSource
from hydra.core.config_store import ConfigStore
from hydra.core.object_type import ObjectType
from hydra.plugins.config_source import ConfigLoadError, ConfigResult, ConfigSource
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from omegaconf import OmegaConf

if TYPE_CHECKING:
    from hydra.core.utils import JobReturn
    from hydra.types import HydraContext, TaskFunction
    from omegaconf import DictConfig

__all__ = ["MosweepSweeper", "NamesSource", "PlanningLauncher"]


class MosweepSweeper(Sweeper):
    """``hydra/sweeper=mosweep``: the basic grammar, controls and treatments, control trials.

    ``mosweep.design.application`` has already added ``params`` to the overrides.
    """

    def __init__(self, params: DictConfig | None = None) -> None:
        self.params = params

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Called by Hydra before ``sweep``."""
        from hydra.core.plugins import Plugins

        self.config, self.hydra_context = config, hydra_context
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> Any:
        """Expand ``arguments`` and the design into trials and launch them."""
        from mosweep.design.sweeping import sweep

        assert self.config is not None and self.hydra_context is not None
        together = isinstance(self.launcher, PlanningLauncher)
        return sweep(self.config, self.hydra_context, self.launcher, arguments, together=together)


class PlanningLauncher(Launcher):
    """Passes all trials of a sweep to a ``mosweep.launchers.base.Launcher`` at once.

    ``options`` are that launcher's options, with its class as ``_target_``. A choice of
    ``hydra/launcher`` names the launcher itself. ``mosweep.design.application`` wraps it in this
    class, because Hydra accepts only its own launchers.
    """

    def __init__(self, options: DictConfig) -> None:
        self.options: Any = OmegaConf.to_container(options, resolve=True)
        self.factor_keys: Sequence[str] | None = None

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Called by Hydra before ``launch``."""
        self.config, self.hydra_context = config, hydra_context

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        """Run one trial per list of overrides; see Hydra's ``Launcher``."""
        from mosweep.design.sweeping import launch

        return launch(self, job_overrides, initial_job_idx)


class NamesSource(ConfigSource):
    """Groups with an open list of choices: any data set, any task folder.

    ``task=mine`` works without ``conf/task/mine.yaml``: Hydra looks for that file first, and
    otherwise the choice is ``{name: mine}``. Only mosweep's own search path has this source.

    With the path ``primary``, it is instead the source of mosweep's primary configuration alone.
    """

    groups = ("dataset", "task")

    @property
    def primary(self) -> FileConfigSource | None:
        """The folder with mosweep's primary configuration, if this is its source."""
        from mosweep.core.paths import shipped

        if self.path != "primary":
            return None
        return FileConfigSource(self.provider, f"file://{shipped('conf')}")

    @staticmethod
    def scheme() -> str:
        """The source's URL scheme."""
        return "mosweep-names"

    def load_config(self, config_path: str) -> ConfigResult:
        """The configuration of one name."""
        if (primary := self.primary) is not None:
            return primary.load_config(config_path)
        group, _, name = self._normalize_file_name(config_path).removesuffix(".yaml").partition("/")
        if not self.is_config(config_path):
            raise ConfigLoadError(f"Config not found : {config_path}")
        fields = {"name": name, "path": None} if group == "dataset" else {"name": name}
        return ConfigResult(
            self.provider, self.full_path(), OmegaConf.create(fields), {"package": group}
        )

    def is_group(self, config_path: str) -> bool:
        """Whether ``config_path`` is one of the open groups."""
        return self.primary is None and config_path in self.groups

    def is_config(self, config_path: str) -> bool:
        """Whether ``config_path`` is a plain name in an open group."""
        if self.primary is not None:
            from mosweep.config.primary import PRIMARY

            return config_path.removesuffix(".yaml") == PRIMARY
        group, slash, name = config_path.removesuffix(".yaml").partition("/")
        return bool(slash) and group in self.groups and bool(name) and "/" not in name

    def available(self) -> bool:
        """Always true."""
        return True

    def list(self, config_path: str, results_filter: ObjectType | None) -> list[str]:
        """The known names: the task folders here and those that mosweep ships."""
        if self.primary is not None:
            return []
        if config_path in ("", "."):
            return list(self.groups) if results_filter in (None, ObjectType.GROUP) else []
        if config_path != "task" or results_filter == ObjectType.GROUP:
            return []
        from mosweep.core.paths import own_and_shipped

        return sorted(
            {
                path.parent.name
                for folder in own_and_shipped("tasks")
                for path in Path(folder).glob("*/eval.py")
            }
        )


# Plain nodes, not dataclasses: Hydra runs plug-ins outside ``sys.modules``, where dataclasses
# cannot be defined.
_store = ConfigStore.instance()
_HERE = "hydra_plugins.mosweep.plugin"
_store.store(
    group="hydra/sweeper",
    name="mosweep",
    node=OmegaConf.create({"_target_": f"{_HERE}.MosweepSweeper", "params": None}),
    provider="mosweep",
)
# Hydra refuses new keys in all sections but these. mosweep checks them itself: the native options
# of torchtune, Tinker and Inspect against each stage's native configuration, and resources against
# their own schema.
_store.store(
    name="mosweep_open",
    node=OmegaConf.create(
        {
            name: OmegaConf.create({}, flags={"struct": False})
            for name in "torchtune tinker inspect resources".split()
        }
    ),
    provider="mosweep",
)
