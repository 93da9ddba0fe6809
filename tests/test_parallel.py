"Several processes train what one process trains, to rounding; what cannot be shared is said; a failure is told."
import re
import pandas as pd,pytest,torch
from conftest import tiny_profile,with_dreams
from dream_ood import stages
from dream_ood.core import *
from dream_ood.runs import Run
from dream_ood.stages import *

def ready(foundation, folder, **sections):
    "A run whose stages before the encoder are done as they are, and those after it by noise."
    return Run.open(tiny_profile(foundation, **sections), 0, folder)

@pytest.fixture(scope='module')
def one_and_two(foundation, tmp_path_factory):
    "The encoder and two classifiers, trained by one process, and by two that accelerate starts."
    out = []
    with pytest.MonkeyPatch.context() as mp:
        for n in (1,2):
            mp.setenv('DREAM_OOD_PROCESSES', str(n))
            # small steps: large ones from untrained weights make much of a last digit
            few = dict(lr=.01, contenders=dict(plain={}, dreams=dict(start='plain', outliers='knn', phi='linear')))
            run = ready(foundation, tmp_path_factory.mktemp(f'by{n}'), training=few,
                        latent_space=dict(epochs=2, batch_size=16, lr=1e-4),
                        evaluation=dict(methods=dict(Dreams=dict(contender='dreams', detector='energy'))))
            run_data(run); run_foundation(run); run_latent_space(run)
            encoder = load_tensors(run.stage('latent_space')/'encoder.safetensors')
            run_training(with_dreams(run))
            out.append((run, encoder))
    return out

def agree(a, b):
    assert a.keys()==b.keys()
    for k in a: assert torch.allclose(a[k].float(), b[k].float(), rtol=1e-3, atol=1e-4), k

def test_two_processes_train_the_encoder_of_one(one_and_two):
    a,b = (encoder for _,encoder in one_and_two)
    agree(a, b)
    assert not all(torch.equal(a[k],b[k]) for k in a)     # two did train: sums are rounded otherwise

@pytest.mark.parametrize('name', ['plain','dreams'])
def test_two_processes_train_the_contender_of_one(one_and_two, name):
    a,b = (load_tensors(r.stage('training')/f'{name}.safetensors') for r,_ in one_and_two)
    agree(a, b)
    assert not all(torch.equal(a[k],b[k]) for k in a)

@pytest.mark.parametrize('name', ['plain','dreams'])
def test_losses_are_those_of_the_whole_batch(one_and_two, name):
    a,b = (pd.read_csv(r.stage('training')/f'{name}.csv') for r,_ in one_and_two)
    pd.testing.assert_frame_equal(a, b, rtol=1e-3, atol=1e-4)

def test_nothing_of_them_is_left(one_and_two):
    left = [f.name for f in one_and_two[1][0].folder.rglob('*') if re.search('said|checkpoint|tmp', f.name)]
    assert not left

def test_a_batch_that_cannot_be_shared_is_told(foundation, tmp_path, monkeypatch):
    run = ready(foundation, tmp_path, latent_space=dict(epochs=1, batch_size=15))
    run_data(run); run_foundation(run)
    monkeypatch.setenv('DREAM_OOD_PROCESSES', '2')
    with pytest.raises(DreamError, match='15 images cannot be shared by 2 processes'): run_latent_space(run)

def test_a_number_of_processes_is_one(monkeypatch):
    monkeypatch.setenv('DREAM_OOD_PROCESSES', 'all')
    with pytest.raises(DreamError, match='give the number'): stages.processes()
    monkeypatch.delenv('DREAM_OOD_PROCESSES')
    assert stages.processes()==max(1, torch.cuda.device_count())

def test_without_a_word_so_many_gpus_train_as_share_the_batches(monkeypatch):
    monkeypatch.delenv('DREAM_OOD_PROCESSES', raising=False)
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 6)
    assert [stages.processes(*b) for b in ((160,), (24,72,32), (7,))]==[5,4,1]

def test_the_bundled_miniatures_train_in_one_process_unless_told(tmp_path, monkeypatch):
    run = ready('bundled', tmp_path)
    monkeypatch.delenv('DREAM_OOD_PROCESSES', raising=False)
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 4)
    monkeypatch.setattr(stages.subprocess, 'Popen', lambda *a,**k: pytest.fail('several were started'))
    stages.together(run, 'training', 8)
