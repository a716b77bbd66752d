"""The typed configuration of a trial: config groups, resources, and a guard against secrets."""
