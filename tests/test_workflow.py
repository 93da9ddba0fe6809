"The graph of notebook runs: it parses for every profile, runs what is missing or stale and nothing else, and fails in one sentence."
import os, re, shutil, subprocess, sys, time
from pathlib import Path

import nbformat, pytest, torch, yaml
from dream_ood.core import load_json, save_json
from dream_ood.runs import NOTEBOOKS, Run, STAGES

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT/'tools'))
PROFILES = [p.name for p in sorted((ROOT/'profiles').glob('*.yaml')) if 'name' in yaml.safe_load(p.read_text())]   # without a name: a base of others

def notebook(path, *sources, parameters):
    cells = [nbformat.v4.new_code_cell(s) for s in (parameters, *sources)]
    cells[0].metadata['tags'] = ['parameters']
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=dict(kernelspec=dict(name='python3', display_name='python3', language='python'))), path)

@pytest.fixture
def project(tmp_path):
    "This project with hollow stages: each writes one file."
    for f in ('Snakefile', 'settings.ini', 'tools', 'profiles'):
        (shutil.copytree if (ROOT/f).is_dir() else shutil.copy)(ROOT/f, tmp_path/f)
    stage = '''from pathlib import Path
from dream_ood.core import *
from dream_ood.settings import *
from dream_ood.study import *
from dream_ood.runs import *
from dream_ood.plots import *
run = Run.open(profile, seed, runs); s = run.stage(%r)
if not s.done:
    s.begin()
    if Path('broken').exists(): raise DreamError('The image x.png is corrupt: delete it.')
    import os; save_json(s/'r.json', dict(seed=seed, threads=int(os.environ['OMP_NUM_THREADS']))); s.finish()'''
    for name, nb in NOTEBOOKS.items(): notebook(tmp_path/'nbs'/f'{nb}.ipynb', stage % name, parameters="profile = None\nseed = None\nruns = None")
    notebook(tmp_path/'nbs'/'paper'/'table1.ipynb', '''from pathlib import Path
from dream_ood.study import load_profile
home = Path(runs)/load_profile(profile).name
for f in ('tables/table1.csv','tables/table1.md','tables/summary.md','figures/gallery.png'):
    (home/f).parent.mkdir(parents=True, exist_ok=True); (home/f).write_text('seed\\n'+'\\n'.join(map(str,seeds))+'\\n')''', parameters="profile = None\nseeds = None\nruns = None")
    return tmp_path

def snakemake(folder, *args, profile='profiles/smoke.yaml', seeds='0,1', shards=1):
    r = subprocess.run([sys.executable, '-m', 'snakemake', '--cores', '1', '--dry-run', '--rerun-triggers', 'mtime', '--nolock', *args,
                        '--config', f'profile={profile}', f'seeds="{seeds}"', f'shards={shards}', 'runs=_runs'], cwd=folder, capture_output=True, text=True)
    return r.returncode, r.stdout + r.stderr

def planned(folder, seeds='0'):
    "The rules that would run."
    code, said = snakemake(folder, seeds=seeds)
    assert code == 0, said
    return set(re.findall(r'^(\w+)\s+1$', said, re.M)) - {'total'}

def reproduce(folder, profile='profiles/smoke.yaml', seeds='0'):
    r = subprocess.run([sys.executable, 'tools/reproduce.py', profile, seeds, '_runs'], cwd=folder, capture_output=True, text=True)
    return r.returncode, r.stdout + r.stderr

def hollow(folder, seed=0):
    "Finish every stage, and its executed notebook, without running anything."
    run = Run.open(folder/'profiles'/'smoke.yaml', seed, folder/'_runs')
    for name, nb in NOTEBOOKS.items():
        s = run.stage(name).begin()
        save_json(s/'r.json', seed)
        s.finish()
        out = run.folder/'notebooks'/f'{nb}.ipynb'
        out.parent.mkdir(exist_ok=True)
        out.write_text('{}')
    return run

@pytest.mark.parametrize('profile', PROFILES)
def test_graph_of_every_profile(project, profile):
    code, said = snakemake(project, profile=f'profiles/{profile}')
    assert code == 0, said
    for seed in (0, 1):
        for s in STAGES: assert f'{s}_{seed}' in said
    assert 'total' in said and str(2*len(STAGES) + 2) in said     # two seeds, a first look, the table

def test_only_what_is_stale_runs(project):
    hollow(project)
    assert planned(project) == {'tables'}
    p = project/'profiles'/'smoke.yaml'
    p.write_text(p.read_text().replace('beta: 0.1', 'beta: 0.2'))
    assert planned(project) == {'training_0', 'evaluation_0', 'dream_id_0', 'tables'}

def test_a_lost_file_is_made_again(project):
    run = hollow(project)
    (run.stage('sampling')/'r.json').unlink()
    assert {'sampling_0', 'decoding_0'} <= planned(project) and not {'data_0', 'latent_space_0'} & planned(project)

def test_reproduce_finishes_then_does_nothing_and_goes_on_after_a_failure(project):
    run = hollow(project)
    shutil.rmtree(run.stage('dream_id').folder)
    (project/'broken').touch()
    code, said = reproduce(project)
    assert code != 0 and 'Error: The image x.png is corrupt: delete it.' in said and 'Stopped at Seed 0: 07_dream_id' in said and 'Traceback' not in said
    (project/'broken').unlink()
    code, said = reproduce(project)
    assert code == 0 and '[1 of 2] Seed 0: 07_dream_id' in said and '[2 of 2] Table 1' in said and 'gallery.png' in said
    code, said = reproduce(project)
    assert code == 0 and 'Nothing to be done' in said and '==' not in said and 'table1.csv' in said

@pytest.mark.skipif(torch.cuda.is_available(), reason='a GPU is not shared')
def test_the_first_seed_has_all_cores_and_the_others_share_them(project):
    runs = [hollow(project, s) for s in (0, 1, 2)]
    for r in runs: shutil.rmtree(r.stage('dream_id').folder)
    code, said = reproduce(project, seeds='0,1,2')
    assert code == 0, said
    cores = len(os.sched_getaffinity(0))
    assert [load_json(r.stage('dream_id')/'r.json') for r in runs] == [dict(seed=i, threads=cores if i == 0 else max(1, cores//2)) for i in range(3)]

@pytest.mark.parametrize('profile,seeds,words', [('profiles/none.yaml', '0', 'There is no profile'), ('profiles/smoke.yaml', '0;1', 'SEEDS'),
                                                  ('settings.ini', '0', 'settings.ini'), ('profiles/bad.yaml', '0', "'latent_space.epoch' is not a known key")])
def test_bad_input_is_one_sentence(project, profile, seeds, words):
    (project/'profiles'/'bad.yaml').write_text((project/'profiles'/'smoke.yaml').read_text().replace('  epochs:', '  epoch:', 1))
    code, said = reproduce(project, profile, seeds)
    assert code != 0 and said.startswith('Error: ') and words in said and len(said.strip().splitlines()) == 1, said
    assert not (project/'_runs').exists()

@pytest.mark.skipif(os.geteuid() == 0 and not Path('/proc/self').exists(), reason='needs a place that cannot be written')
def test_an_unwritable_run_folder_is_one_sentence(project):
    (project/'_runs').write_text('a file, no folder')
    code, said = reproduce(project)
    assert code != 0 and said.startswith('Error: Cannot write') and len(said.strip().splitlines()) == 1, said

def test_what_a_killed_call_left_is_ended_and_a_living_call_is_not(project, capsys):
    import reproduce
    from contextlib import contextmanager
    @contextmanager
    def working(caller):
        "A process such as a call of `make reproduce` has at work."
        env = os.environ | ({reproduce.CALL: str(caller)} if caller else {})
        p = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(100)', 'tools/execute.py', 'profile=a.yaml', 'runs=_runs'], cwd=project, env=env)
        try: yield p
        finally: p.kill(); p.wait()
    gone = subprocess.Popen(['true']); gone.wait()
    living = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(100)', 'tools/reproduce.py'])
    here = os.getcwd(); os.chdir(project)
    try:
        with working(gone.pid) as a, working(living.pid) as b, working(None) as c:
            time.sleep(1)
            reproduce.end_orphans(['a.yaml'], '_runs')
            assert a.wait(10) and b.poll() is None is c.poll() and f'process {a.pid}' in capsys.readouterr().out
    finally: os.chdir(here); living.kill(); living.wait()

def test_kernels_started_at_once_share_no_address(tmp_path):
    "Ports are guessed before they are taken: two kernels may guess the same, and one of them dies."
    notebook(tmp_path/'a.ipynb', 'from ipykernel.kernelapp import IPKernelApp as A\nprint(A.instance().transport, A.instance().ip)', parameters='seed = None')
    jobs = [subprocess.Popen([sys.executable, 'tools/execute.py', tmp_path/'a.ipynb', tmp_path/f'{i}.ipynb', f'seed={i}'], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) for i in range(4)]
    said = [j.communicate()[0] for j in jobs]
    assert [j.returncode for j in jobs] == [0]*4, said
    at = [tuple(c.outputs[0].text.split()) for c in (nbformat.read(tmp_path/f'{i}.ipynb', 4).cells[-1] for i in range(4))]
    assert len(at) == len(set(at)) == 4 and {t for t, _ in at} == {'ipc'}, at

def test_shards_are_jobs_before_the_stage(project):
    notebook(project/'nbs'/'shards'/'decoding.ipynb', 'pass', parameters='profile = None\nseed = None\nruns = None\nshard = None\nshards = None')
    code, said = snakemake(project, '--printshellcmds', shards=3, seeds='0')
    assert code == 0, said
    assert set(re.findall(r'^(decoding_0\S*)\s+1$', said, re.M)) == {'decoding_0', *(f'decoding_0_{i}' for i in range(3))}
    assert len(re.findall(r'shards/decoding.ipynb .*shard=\d shards=3', said)) == 3

def test_one_row_has_a_study_of_its_own(project):
    row = 'Dream-OOD'
    r = subprocess.run([sys.executable, 'tools/reproduce.py', 'profiles/smoke.yaml', '0', '_runs', row], cwd=project, capture_output=True, text=True)
    assert r.returncode == 0, r.stdout + r.stderr
    [home] = (project/'_runs').iterdir()
    assert 'only_dream_ood' in home.name and (home/'tables'/'table1.csv').exists()
    code, said = reproduce(project, str(home/'profile.yaml'))       # the profile it wrote is one like any other
    assert code == 0 and 'Nothing to be done' in said
    r = subprocess.run([sys.executable, 'tools/reproduce.py', 'profiles/smoke.yaml', '0', '_runs', 'Drean'], cwd=project, capture_output=True, text=True)
    assert r.returncode and "has no row 'Drean'" in r.stderr
