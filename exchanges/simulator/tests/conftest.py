from exchanges.simulator.testing import simulator, simulator_process

__all__ = ["simulator", "simulator_process"]
