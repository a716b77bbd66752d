"""The yardstick: a bare Hydra application of five groups and 62 keys, whose jobs do nothing."""

import hydra
from omegaconf import DictConfig


@hydra.main(version_base="1.3", config_path="conf", config_name="config")
def main(config: DictConfig) -> None:
    return None


if __name__ == "__main__":
    main()
