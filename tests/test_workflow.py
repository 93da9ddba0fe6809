"""The graph of notebook runs: it parses for every profile, runs what is missing or stale and nothing else, and fails
in one sentence."""
import contextlib, os, re, shutil, signal, subprocess, sys, time
from pathlib import Path

import nbformat, pytest, torch, yaml
from dream_ood.core import load_json, save_json
from dream_ood.runs import NOTEBOOKS, Run, STAGES
from dream_ood.study import load_profile, only
from warm import COLD

ROOT = Path(__file__).parent.parent
# without a name: a base of others
PROFILES = [p.name for p in sorted((ROOT/'profiles').glob('*.yaml')) if 'name' in yaml.safe_load(p.read_text())]

def notebook(path, *sources, parameters):
    cells = [nbformat.v4.new_code_cell(s) for s in (parameters, *sources)]
    cells[0].metadata['tags'] = ['parameters']
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(nbformat.v4.new_notebook(cells=cells,
                                            metadata=dict(kernelspec=dict(name='python3', display_name='python3',
            language='python'))), path)

@pytest.fixture
def project(tmp_path):
    "This project with hollow stages: each writes one file."
    for f in ('workflow', 'settings.ini', 'profiles'):
        (shutil.copytree if (ROOT/f).is_dir() else shutil.copy)(ROOT/f, tmp_path/f)
    stage = '''from pathlib import Path
from dream_ood.core import DreamError,save_json
from dream_ood.runs import Run
run = Run.open(profile, seed, runs); s = run.stage(%r)
if not s.done:
    s.begin()
    if Path('broken').exists(): raise DreamError('The image x.png is corrupt: delete it.')
    import os; save_json(s/'r.json', dict(seed=seed, threads=int(os.environ['OMP_NUM_THREADS']))); s.finish()'''
    for name, nb in NOTEBOOKS.items():
        notebook(tmp_path/'nbs'/f'{nb}.ipynb', stage % name, parameters="profile = None\nseed = None\nruns = None")
    notebook(tmp_path/'nbs'/'paper'/'table1.ipynb', '''from pathlib import Path
from dream_ood.study import load_profile
home = Path(runs)/load_profile(profile).name
for f in ('tables/table1.csv','tables/table1.md','tables/summary.md','figures/gallery.png'):
    (home/f).parent.mkdir(parents=True, exist_ok=True)
    (home/f).write_text('seed\\n'+'\\n'.join(map(str,seeds))+'\\n')''',
    parameters="profile = None\nseeds = None\nruns = None")
    return tmp_path

def snakemake(folder, *args, profile='profiles/smoke.yaml', seeds='0,1', shards=1):
    "Plain snakemake, as a user of it would call it."
    r = subprocess.run([sys.executable, '-m', 'snakemake', '--cores', '1', '--dry-run', '--nolock', *args,
                        '--config', f'profile={profile}', f'seeds="{seeds}"', f'shards={shards}', 'runs=_runs'],
                       cwd=folder, capture_output=True, text=True)
    return r.returncode, r.stdout + r.stderr

def planned(folder, seeds='0', **kwargs):
    "What would run, as people see it."
    code, said = snakemake(folder, seeds=seeds, **kwargs)
    assert code == 0, said
    return set(re.findall(r'^Job \d+: (.*)$', said, re.M))

def command(folder, *args):
    "A call of dream-ood: exit code, and all that it says."
    r = subprocess.run([sys.executable, '-m', 'dream_ood', *map(str, args)], cwd=folder, capture_output=True, text=True)
    return r.returncode, r.stdout + r.stderr

def reproduce(folder, profile='profiles/smoke.yaml', seeds='0', *more):
    return command(folder, 'reproduce', '--profile', profile, '--seeds', seeds, *more)

TABLE = 'Table 1 of smoke, seeds 0'

def hollow(folder, seed=0, profile=None):
    "Finish every stage, and mark it as the graph does, without running anything."
    run = Run.open(profile or folder/'profiles'/'smoke.yaml', seed, folder/'_runs')
    for name, nb in NOTEBOOKS.items():
        s = run.stage(name).begin()
        save_json(s/'r.json', seed)
        s.finish()
        (run.folder/'done').mkdir(exist_ok=True)
        shutil.copy(s/'provenance.json', run.folder/'done'/f'{nb}.json')
    return run

@pytest.mark.parametrize('profile', PROFILES)
def test_graph_of_every_profile(project, profile):
    name = yaml.safe_load((project/'profiles'/profile).read_text())['name']
    table = {'A first look: Table 1 of seed 0 alone', f'Table 1 of {name}, seeds 0, 1'}
    assert (planned(project, seeds='0,1', profile=f'profiles/{profile}') == table
            | {f'Seed {k}: {nb}' for k in (0, 1) for nb in NOTEBOOKS.values()})

def test_only_what_is_stale_runs(project):
    hollow(project)
    assert planned(project) == {TABLE}
    p = project/'profiles'/'smoke.yaml'
    p.write_text(p.read_text().replace('beta: 0.1', 'beta: 0.2'))
    assert planned(project) == {*(f'Seed 0: {NOTEBOOKS[s]}' for s in ('training', 'evaluation', 'dream_id')), TABLE}

@pytest.mark.parametrize('where,value', [('sampling.pools.knn.sigma', 0.08), ('evaluation.k', 6),
                                         ('decoding.guidance', 2.0), ('dream_id.steps', 4),
                                         ('latent_space.alignment', 0.5)])
def test_a_changed_value_reruns_what_depends_on_it_and_nothing_else(project, where, value):
    hollow(project)
    p = project/'profiles'/'smoke.yaml'
    profile = section = yaml.safe_load(p.read_text())
    stage,*folders,name = where.split('.')
    for s in (stage, *folders): section = section[s]
    assert section.get(name)!=value
    section[name] = value
    p.write_text(yaml.safe_dump(profile, sort_keys=False))
    wanted = {stage}
    while more := {s for s, (_, needs) in STAGES.items() if set(needs) & wanted} - wanted: wanted |= more
    assert planned(project) == {TABLE} | {f'Seed 0: {NOTEBOOKS[s]}' for s in wanted}

def test_a_lost_file_is_made_again(project):
    run = hollow(project)
    (run.stage('sampling')/'r.json').unlink()
    assert ({'Seed 0: 04_sampling', 'Seed 0: 05_decoding'} <= planned(project)
            and not {'Seed 0: 01_data', 'Seed 0: 03_latent_space'} & planned(project))

def test_what_was_run_for_another_profile_by_hand_is_found(project):
    "In JupyterLab: the stage folder is of other values than Snakemake remembers."
    run = hollow(project)
    other = Run(run.profile.model_copy(update=dict(dream_id=run.profile.dream_id.model_copy(update=dict(steps=7)))), 0,
                project/'_runs')
    s = other.stage('dream_id').begin()
    save_json(s/'r.json', 0); s.finish()
    assert planned(project) == {'Seed 0: 07_dream_id', TABLE}

def test_other_seeds_make_the_table_anew_and_nothing_else(project):
    for k in (0, 1): hollow(project, k)
    assert reproduce(project, seeds='0,1')[0] == 0 and planned(project, seeds='0,1') == set()
    assert planned(project, seeds='1') == {'Table 1 of smoke, seeds 1'}
    (project/'_runs'/'smoke'/'seed0'/'done'/'table1.md').unlink()
    assert planned(project, seeds='0') == {TABLE}

def test_reproduce_finishes_then_does_nothing_and_goes_on_after_a_failure(project):
    run = hollow(project)
    shutil.rmtree(run.stage('dream_id').folder)
    (project/'broken').touch()
    code, said = reproduce(project)
    assert (code != 0 and 'Error: The image x.png is corrupt: delete it.' in said
            and 'Stopped at Seed 0: 07_dream_id' in said and 'Traceback' not in said)
    (project/'broken').unlink()
    code, said = reproduce(project)
    assert (code == 0 and '[1 of 2] Seed 0: 07_dream_id' in said and '[2 of 2] Table 1' in said
            and 'gallery.png' in said), said
    code, said = reproduce(project)
    assert code == 0 and 'Nothing to be done' in said and '==' not in said and 'table1.csv' in said
    assert (run.folder/'notebooks'/'07_dream_id.ipynb').exists()

@pytest.mark.skipif(torch.cuda.is_available(), reason='a GPU is not shared')
def test_the_first_seed_has_all_cores_and_the_others_share_them(project):
    runs = [hollow(project, s) for s in (0, 1, 2)]
    for r in runs: shutil.rmtree(r.stage('dream_id').folder)
    code, said = reproduce(project, seeds='0,1,2')
    assert code == 0, said
    cores = len(os.sched_getaffinity(0))
    assert [load_json(r.stage('dream_id')/'r.json')
            for r in runs] == [dict(seed=i, threads=cores if i == 0 else max(1, cores//2)) for i in range(3)]

@pytest.mark.parametrize('profile,seeds,words',
                         [('profiles/none.yaml', '0', 'There is no profile'), ('profiles/smoke.yaml', '0;1', 'SEEDS'),
                                                  ('settings.ini', '0', 'settings.ini'),
                                                  ('profiles/bad.yaml', '0',
        "'latent_space.epoch' is not a known key")])
def test_bad_input_is_one_sentence(project, profile, seeds, words):
    (project/'profiles'/'bad.yaml').write_text((project/'profiles'/'smoke.yaml').read_text().replace('  epochs:',
        '  epoch:', 1))
    code, said = reproduce(project, profile, seeds)
    assert code != 0 and said.startswith('Error: ') and words in said and len(said.strip().splitlines()) == 1, said
    assert not (project/'_runs').exists()

@pytest.mark.skipif(os.geteuid() == 0 and not Path('/proc/self').exists(),
                    reason='needs a place that cannot be written')
def test_an_unwritable_run_folder_is_one_sentence(project):
    (project/'_runs').write_text('a file, no folder')
    code, said = reproduce(project)
    assert code != 0 and said.startswith('Error: Cannot write') and len(said.strip().splitlines()) == 1, said

@contextlib.contextmanager
def calling(folder, seeds='0'):
    """A call of dream-ood that is at work on the one stage that is not finished, and goes on only when the file `wait`
    is gone."""
    shutil.rmtree(hollow(folder).stage('dream_id').folder)
    (folder/'wait').touch()
    nb = folder/'nbs'/f'{NOTEBOOKS["dream_id"]}.ipynb'
    text = nb.read_text()
    if 'waiting' not in text:
        doc = nbformat.read(nb, 4)
        doc.cells.append(nbformat.v4.new_code_cell("import time\nPath('waiting').touch()\nwhile Path('wait').exists(): "
                                                   "time.sleep(.2)"))
        doc.cells[-1], doc.cells[-2] = doc.cells[-2], doc.cells[-1]
        doc.cells[1].source = 'from pathlib import Path\n' + doc.cells[1].source
        nbformat.write(doc, nb)
    p = subprocess.Popen([COLD, '-m', 'dream_ood', 'reproduce', '-p', 'profiles/smoke.yaml', '-s', seeds], cwd=folder,
                         stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True)
    try:
        for _ in range(600):
            if (folder/'waiting').exists() or p.poll() is not None: break
            time.sleep(.1)
        assert p.poll() is None, p.communicate()[0]
        yield p
    finally:
        (folder/'wait').unlink(missing_ok=True); (folder/'waiting').unlink(missing_ok=True)
        if p.poll() is None: p.kill()
        p.communicate()

def jobs_of(pid):
    return subprocess.run(['pgrep', '-f', f'dream_ood execute --caller {pid} '], capture_output=True,
                          text=True).stdout.split()

def test_two_calls_at_once_are_one_sentence_and_a_killed_one_goes_on(project):
    with calling(project) as p:
        code, said = reproduce(project)
        assert (code == 2 and said.startswith('Error: Another call is at work in')
                and len(said.strip().splitlines()) == 1), said
        code, said = snakemake(project, seeds='0')                    # to look is allowed,
        assert code == 0
        r = subprocess.run([sys.executable, '-m', 'snakemake', '--config', 'profile=profiles/smoke.yaml', 'seeds="0"'],
                           cwd=project, capture_output=True, text=True)
        # and Snakemake's own lock is there for plain snakemake
        assert r.returncode and 'cannot be locked' in r.stderr
        assert jobs_of(p.pid)
        p.kill(); p.wait()
        for _ in range(400):                                          # what it left ends by itself
            if not jobs_of(p.pid): break
            time.sleep(.1)
        assert not jobs_of(p.pid)
    assert list((project/'.snakemake'/'locks').iterdir())             # left by the killed call
    code, said = reproduce(project)
    assert code == 0 and '== [1 of 2] Seed 0: 07_dream_id' in said and 'table1.csv' in said, said
    code, said = reproduce(project)
    assert code == 0 and 'Nothing to be done' in said

def test_a_lock_of_plain_snakemake_is_one_sentence(project):
    hollow(project)
    (project/'.snakemake'/'locks').mkdir(parents=True)
    (project/'.snakemake'/'locks'/'0.output.lock').write_text('_runs/smoke/tables/table1.csv\n')
    code, said = reproduce(project)
    assert (code and said.startswith('Error: Another call is at work on this study')
            and len(said.strip().splitlines()) == 1), said

def test_an_interrupted_call_is_one_sentence_and_goes_on(project):
    with calling(project) as p:
        os.killpg(p.pid, signal.SIGINT)                               # Ctrl-C reaches all
        said = p.communicate(timeout=60)[0]
        assert (p.returncode == 130 and 'Interrupted: call it again' in said and 'Traceback' not in said
                and 'Stopped at' not in said), said
        assert not list((project/'.snakemake'/'locks').glob('*'))
    assert reproduce(project)[0] == 0

def test_kernels_started_at_once_share_no_address(tmp_path):
    "Ports are guessed before they are taken: two kernels may guess the same, and one of them dies."
    notebook(tmp_path/'a.ipynb', 'from ipykernel.kernelapp import IPKernelApp as A\nprint(A.instance().transport, '
                                 'A.instance().ip)', parameters='seed = None')
    jobs = [subprocess.Popen([sys.executable, '-m', 'dream_ood', 'execute', tmp_path/'a.ipynb', tmp_path/f'{i}.ipynb',
                              f'seed={i}'], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
                              for i in range(4)]
    said = [j.communicate()[0] for j in jobs]
    assert [j.returncode for j in jobs] == [0]*4, said
    at = [tuple(c.outputs[0].text.split()) for c in (nbformat.read(tmp_path/f'{i}.ipynb', 4).cells[-1]
        for i in range(4))]
    assert len(at) == len(set(at)) == 4 and {t for t, _ in at} == {'ipc'}, at

def test_shards_are_jobs_before_the_stage(project):
    notebook(project/'nbs'/'shards'/'decoding.ipynb', 'pass', parameters='profile = None\nseed = None\nruns = '
             'None\nshard = None\nshards = None')
    code, said = snakemake(project, '--printshellcmds', shards=3, seeds='0')
    assert code == 0, said
    shards = {f'Seed 0: 05_decoding, shard {i} of 3' for i in range(3)}
    assert {j for j in re.findall(r'^Job \d+: (.*)$', said, re.M) if '05_decoding' in j} == {'Seed 0: 05_decoding',
        *shards}
    assert len(re.findall(r'shards/decoding.ipynb .*shard=\d shards=3', said)) == 3

def test_one_row_has_a_study_of_its_own(project):
    part = only(load_profile(project/'profiles'/'smoke.yaml'), ['Dream-OOD'])
    shutil.rmtree(hollow(project, profile=part).stage('dream_id').folder)     # whose other stages are found
    code, said = reproduce(project, 'profiles/smoke.yaml', '0', '--row', 'Dream-OOD')
    assert code == 0 and '[1 of 2] Seed 0: 07_dream_id' in said, said
    [home] = (project/'_runs').iterdir()
    assert 'only_dream_ood' in home.name and (home/'tables'/'table1.csv').exists()
    code, said = reproduce(project, home/'profile.yaml')       # the profile it wrote is one like any other
    assert code == 0 and 'Nothing to be done' in said, said
    code, said = reproduce(project, 'profiles/smoke.yaml', '0', '--row', 'Drean')
    assert code and "has no row 'Drean'" in said

def test_what_cells_print_stays_in_the_executed_copy(tmp_path, capfd):
    "Stage notebooks show what mistakes look like, and someone who runs a job has made none."
    from dream_ood.workflow import execute_notebook
    notebook(tmp_path/'a.ipynb', "print('the weights are damaged')", parameters='x = 1')
    execute_notebook(tmp_path/'a.ipynb', tmp_path/'b.ipynb', x=2)
    told = capfd.readouterr()
    assert 'damaged' not in told.out + told.err
    assert 'the weights are damaged' in str([c.get('outputs') for c in nbformat.read(tmp_path/'b.ipynb', 4).cells])
