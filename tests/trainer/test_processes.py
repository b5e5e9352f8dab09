import pytest
from cutpoint.errors import BadConfig
from cutpoint.trainer.processes import ALONE, Processes, processes_of


def test_what_the_environment_says():
    torchrun = {"RANK": "5", "LOCAL_RANK": "1", "WORLD_SIZE": "8", "LOCAL_WORLD_SIZE": "4"}
    assert processes_of(torchrun) == Processes(5, 8, 4, together=True)
    assert processes_of({"LOCAL_RANK": "1", "NODE_RANK": "0", "WORLD_SIZE": "2"}) == Processes(1, 2, 2)  # Lightning's own
    assert processes_of({"RANK": "3", "WORLD_SIZE": "8"}) is ALONE  # a cluster's variables without a launcher
    assert ALONE.first
    with pytest.raises(BadConfig, match="WORLD_SIZE is many; expected a number"):
        processes_of({"LOCAL_RANK": "0", "WORLD_SIZE": "many"})
