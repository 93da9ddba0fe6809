"Same profile, seed, kind of machine and threads: the same artifacts, byte for byte, through all eight stages."
import random
import numpy as np, pytest, torch, yaml
from dream_ood import stages
from dream_ood.faults import artifacts, differing, small_study
from dream_ood.runs import Run, STAGES

@pytest.fixture
def one_thread():
    n = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n)

def finished(profile, folder):
    "The run of a study in a folder, made under other states of the global generators and nothing else."
    for seed in (torch.manual_seed, np.random.seed, random.seed): seed(len(str(folder)))
    run = Run.open(profile, 0, folder)
    for s in STAGES: getattr(stages, f'run_{s}')(run)
    return run.folder.parent

def test_two_runs_are_the_same_byte_for_byte(tmp_path, one_thread):
    profile = tmp_path/'profile.yaml'
    profile.write_text(yaml.safe_dump(small_study(), sort_keys=False))
    a, b = (finished(profile, tmp_path/f) for f in ('a', 'elsewhere'))
    assert differing(a, b) == []
    kinds = {f.rsplit('.', 1)[1] for f in artifacts(a)}
    assert {'safetensors', 'png', 'csv', 'parquet', 'json', 'html', 'md'} <= kinds
    assert {f.split('/')[1] for f in artifacts(a)} == {*STAGES}
