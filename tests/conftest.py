"A run small enough for tests: eight images a class, a random foundation, dreams that are noisy copies."
import os,pytest,shutil,sys,tempfile,warm
from pathlib import Path
# The library is imported where it is used: the process that shares out the tests has no use for it.

ROOT = Path(__file__).parent.parent
HEAVY = ['test_notebooks','test_paper','test_website','test_workflow','test_pages_of_less','test_plan',
         'test_classifier','test_decoding','test_own','test_handover','test_explorer']

def pytest_configure(config):
    "Processes of tests begin warm; one server is enough for all workers (where the system can fork)."
    if 'PYTEST_XDIST_WORKER' not in os.environ and hasattr(os, 'pidfd_open'):
        config.warm_folder = tempfile.mkdtemp(prefix='warm-')
        os.environ['WARM_PYTHON'],config.warm_server = warm.start(Path(config.warm_folder))
    sys.executable = os.environ.get('WARM_PYTHON', sys.executable)

def pytest_unconfigure(config):
    sys.executable = warm.COLD
    if hasattr(config, 'warm_server'):
        config.warm_server.stdin.close(); config.warm_server.wait()
        shutil.rmtree(config.warm_folder, ignore_errors=True)

def pytest_collection_modifyitems(items):
    "What takes minutes comes first, so that no worker waits for it at the end."
    items.sort(key=lambda i: HEAVY.index(i.path.stem) if i.path.stem in HEAVY else len(HEAVY))

def tiny_profile(foundation, **sections):
    "The mini profile with eight images a class, a random foundation, and trainings of a few steps."
    from dream_ood.study import Profile,load_profile
    d = load_profile(ROOT/'profiles'/'mini.yaml').model_dump()
    for s in ('train','validation','test'): d['data'][s]['per_class'] = 8
    for s in ('wide','validation_outliers'): d['data'][s]['per_class'] = 1
    d['data']['ood'] = {k:v|dict(per_class=12) for k,v in d['data']['ood'].items() if k in ('sandal','faces','noise')}
    d['foundation']['model'] = str(foundation)
    d['training'] |= dict(epochs=2, batch_size=16, finetune=dict(freeze_bn=True, steps=5, lr=0.01, batch_size=8,
        outlier_batch_size=8, vae_fraction=0.25),
        contenders=dict(plain={}, longer=dict(start='plain'), dreams=dict(start='plain',outliers='knn'),
                        wide=dict(start='plain',outliers='wide',phi='monotone')))
    d['dream_id'] |= dict(real_per_class=3, steps=2, batch_size=8, repeats=2, test_per_class=4)
    d['evaluation'] |= dict(k=5, methods=dict(Energy=dict(contender='plain',detector='energy'),
                                              KNN=dict(contender='plain',detector='knn'),
        Dreams=dict(contender='dreams',detector='energy'), Both=dict(contender='dreams',detector='combined')))
    return Profile(**{k:(v|sections[k]) if k in sections else v for k,v in d.items()})

def with_dreams(run):
    "The stages before training, done: their images are noisy copies of the training images."
    import torch
    from PIL import Image
    from dream_ood.core import save_json
    from dream_ood.data import id_set
    g,train = torch.Generator().manual_seed(0),id_set(run.profile.data,'train')
    for name in ('data','foundation','latent_space','sampling','decoding'):
        s = run.stage(name).begin()
        for p in run.profile.decoding.pools if name=='decoding' else ():
            for i,(x,y) in enumerate(train):
                f = s/p/train.classes[y]/f'{i:05d}.png'; f.parent.mkdir(parents=True, exist_ok=True)
                if i%4==0:
                    Image.fromarray((x/2+100*torch.rand(x.shape,generator=g)).byte().permute(1,2,0).numpy()).save(f)
        save_json(s/'made.json', name); s.finish('made.json')
    return run

@pytest.fixture(scope='session', autouse=True)
def reduced_images(tmp_path_factory):
    "What is kept of folders does not lie among the checkout's runs."
    os.environ['DREAM_OOD_CACHE'] = str(tmp_path_factory.mktemp('reduced'))

@pytest.fixture(scope='session')
def foundation(tmp_path_factory):
    from dream_ood.foundation import tiny_pipeline
    f = tmp_path_factory.mktemp('foundation')/'tiny'
    tiny_pipeline().save_pretrained(f)
    return f

@pytest.fixture(scope='session')
def trained(foundation, tmp_path_factory):
    from dream_ood.runs import Run
    from dream_ood.stages import run_training
    run = with_dreams(Run.open(tiny_profile(foundation), 0, tmp_path_factory.mktemp('runs')))
    run_training(run)
    return run
