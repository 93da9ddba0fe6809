"""What must not harm a run does not: files that were edited, clocks that were set back, others' kernels, a killed one.
And the campaign that tries all of it on the whole graph (`make faults`), here on a graph that is a puppet."""
import json, os, shutil, signal, subprocess, sys, time
from pathlib import Path

import nbformat, pytest
from dream_ood import faults, workflow
from dream_ood.core import DreamError, load_json, save_json
from dream_ood.faults import Campaign, Call, artifacts, differing, run_campaign, strike
from dream_ood.runs import NOTEBOOKS, Run, STAGES
from dream_ood.workflow import Mistake, check_seal, elsewhere, end_with, execute_notebook, seal, settle_times, withdraw

ROOT = Path(__file__).parent.parent
SMOKE = ROOT/'profiles'/'smoke.yaml'

def notebook(path, *sources):
    kernel = dict(name='python3', display_name='python3', language='python')
    cells = [nbformat.v4.new_code_cell(s) for s in sources]
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=dict(kernelspec=kernel)), path)
    return path

@pytest.fixture
def run(tmp_path):
    "A run whose stages are done, and hold two files each."
    r = Run.open(SMOKE, 0, tmp_path/'runs')
    for n, nb in NOTEBOOKS.items():
        s = r.stage(n).begin()
        for f in 'ab': (s/f).write_text(f'{n} {f}')
        s.finish()
        (r.folder/'done').mkdir(exist_ok=True)
        shutil.copy(s/'provenance.json', r.folder/'done'/f'{nb}.json')
    return r

# -- files ------------------------------------------------------------------------------------------------------------
def harmed(file, how):
    seen, data = file.stat(), bytearray(file.read_bytes())
    if how == 'lost': return file.unlink()
    if how == 'cut': data = data[:-1]
    else: data[0] ^= 1
    file.write_bytes(data)
    if how == 'put back': os.utime(file, ns=(seen.st_atime_ns, seen.st_mtime_ns))

@pytest.mark.parametrize('how', ['lost', 'cut', 'edited', 'put back'])
def test_a_harmed_file_is_named_with_what_makes_it_again_and_nothing_is_made_from_it(run, how, capsys):
    s = run.stage('sampling')
    assert s.done
    harmed(s/'b', how)
    assert not run.stage('sampling').done and list(run.stage('sampling').damaged) == ['b']
    withdraw(run)
    said = capsys.readouterr().out
    assert 'sampling/b ' in said and '04_sampling makes it again' in said and said.count('\n') == 1
    assert {f.stem for f in (run.folder/'done').iterdir()} == {*NOTEBOOKS.values()} - {'04_sampling'}
    s.begin()                                                        # a stage keeps what it finds: not this
    assert not (s/'b').exists() and (s/'a').read_text() == 'sampling a'
    kept = [*run.folder.glob('set_aside/*/b')]
    assert len(kept) == (how != 'lost') and (not kept or kept[0].read_text() != 'sampling b')
    (s/'b').write_text('sampling b'); s.finish()
    assert all(run.stage(n).done for n in STAGES)                    # made again alike: nothing else is stale

def test_files_made_from_other_values_are_not_named_as_damaged(run, capsys):
    harmed(run.stage('training')/'a', 'cut')
    run.profile = run.profile.model_copy(update=dict(training=run.profile.training.model_copy(update=dict(beta=.3))))
    withdraw(run)
    assert 'again' not in capsys.readouterr().out

def test_a_lost_picture_of_a_pool_is_named(run, capsys):
    import pandas as pd
    s = run.stage('decoding')
    for f in ('coat/0.png', 'coat/1.png'):
        (s/'knn'/f).parent.mkdir(parents=True, exist_ok=True); (s/'knn'/f).write_text('picture')
    pd.DataFrame(dict(file=['coat/0.png', 'coat/1.png'], bytes=7)).to_parquet(s/'knn'/'metadata.parquet')
    s.finish('a', 'b', 'knn/metadata.parquet')
    (run.folder/'done'/'05_decoding.json').touch()
    withdraw(run)
    assert (run.folder/'done'/'05_decoding.json').exists()
    (s/'knn'/'coat'/'1.png').unlink()
    withdraw(run)
    assert 'knn/coat/1.png is lost: 05_decoding' in capsys.readouterr().out
    assert not (run.folder/'done'/'05_decoding.json').exists()

def test_an_edited_table_is_set_aside(tmp_path, capsys):
    for f in workflow.SHOWN: (tmp_path/f).parent.mkdir(exist_ok=True); (tmp_path/f).write_text(f)
    check_seal(tmp_path); seal(tmp_path); check_seal(tmp_path)
    assert capsys.readouterr().out == '' and all((tmp_path/f).exists() for f in workflow.SHOWN)
    harmed(tmp_path/'tables'/'table1.csv', 'put back'); check_seal(tmp_path)
    assert 'table1.csv was changed: paper/table1 makes it again' in capsys.readouterr().out
    assert not (tmp_path/'tables'/'table1.csv').exists() and len([*tmp_path.glob('set_aside/*/tables/table1.csv')]) == 1

def test_files_of_the_future_get_the_time_of_now_in_their_order(tmp_path):
    now, files = time.time(), [tmp_path/f for f in ('seed0/done/a', 'tables/b', 'figures/c', 'tables/d')]
    for f, t in zip(files, (9000, 8000, 7000, -7000)):
        f.parent.mkdir(parents=True, exist_ok=True); f.touch(); os.utime(f, (now, now+t))
    settle_times(tmp_path, now)
    a, b, c, d = [f.stat().st_mtime for f in files]
    assert d < now-6999 and now-1 <= c < b < a <= now + 1e-3

# -- processes --------------------------------------------------------------------------------------------------------
def test_notebooks_run_in_this_interpreter_whatever_kernels_are_named_beside(tmp_path, monkeypatch):
    spec = tmp_path/'jupyter'/'kernels'/'python3'/'kernel.json'
    save_json(spec, dict(argv=['/bin/sh', '-c', f'touch {tmp_path/"started"}'], display_name='Python 3',
                         language='python'))
    monkeypatch.setenv('JUPYTER_PATH', str(tmp_path/'jupyter'))
    from jupyter_client.kernelspec import KernelSpecManager
    assert KernelSpecManager().get_kernel_spec('python3').argv[0] == '/bin/sh'     # what all else would start
    execute_notebook(notebook(tmp_path/'a.ipynb', 'import sys; print(sys.executable)'), tmp_path/'b.ipynb')
    assert nbformat.read(tmp_path/'b.ipynb', 4).cells[0].outputs[0].text.strip() == sys.executable
    assert not (tmp_path/'started').exists()

def test_a_killed_kernel_is_one_sentence(tmp_path):
    with pytest.raises(Mistake, match='^a: Its kernel was killed.*memory'):
        execute_notebook(notebook(tmp_path/'a.ipynb', 'import os; os.kill(os.getpid(), 9)'), tmp_path/'b.ipynb')

def test_a_job_ends_though_its_callers_number_goes_to_another(monkeypatch):
    import psutil
    class Reused(psutil.Process):
        def is_running(self): return False         # psutil compares when a process began
    monkeypatch.setattr(psutil, 'Process', Reused)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)     # whoever starts the tests may ignore it
    try:
        with pytest.raises(KeyboardInterrupt):
            end_with(os.getppid(), every=.01, grace=1e9)
            time.sleep(10)
    finally: signal.signal(signal.SIGINT, before)

@pytest.mark.parametrize('writable', [True, False])
def test_snakemake_goes_among_the_runs_where_it_cannot_write(tmp_path, monkeypatch, writable):
    (tmp_path/'here').mkdir(); (tmp_path/'runs').mkdir()
    monkeypatch.chdir(tmp_path/'here')
    monkeypatch.setattr(os, 'access', lambda *_: writable)
    given = dict(profile='profiles/smoke.yaml', runs='../runs', target='table1')
    snakefile, config = elsewhere('Snakefile', given)
    assert config == given if writable else Path.cwd() == tmp_path/'runs' and snakefile == tmp_path/'here'/'Snakefile'
    if not writable: assert Path(config['profile']).is_absolute() and Path(config['runs']) == tmp_path/'here'/'../runs'

# -- the campaign -----------------------------------------------------------------------------------------------------
PUPPET = '''
import json, os, sys, time
from pathlib import Path
home, stages, bad = Path(sys.argv[2]), sys.argv[3].split(','), sys.argv[4]
def write(f, text): f.with_name('.x.tmp').write_text(text); os.replace(f.with_name('.x.tmp'), f)
for i, s in enumerate(stages):
    f = home/'seed0'/s/'a'
    f.parent.mkdir(parents=True, exist_ok=True)
    print(f'== [{i+1} of {len(stages)}] Seed 0: {s}', flush=True)
    time.sleep(.05)
    write(f, 'lost' if s == bad and (f.parent/'b').exists() else s)
    (f.parent/'b').touch()
    outputs = {'a': dict(size=len(s))}
    told = dict(stage=s, key=1, result=1, inputs={}, outputs=outputs, time=time.time())
    write(f.with_name('provenance.json'), json.dumps(told))
(home/'tables').mkdir(exist_ok=True); (home/'tables'/'table1.csv').write_text('1')
print('Table 1 is made')
'''

@pytest.fixture
def puppet(tmp_path, monkeypatch):
    "In the place of the graph a process that writes a file for each stage."
    (tmp_path/'puppet.py').write_text(PUPPET)
    class Puppet(Call):
        def __init__(self, place, words, cwd, env, session):
            place.logs.mkdir(parents=True, exist_ok=True)
            self.place, self.began, self.file = place, time.time(), place.logs/f'{time.time_ns()}.txt'
            words = [sys.executable, tmp_path/'puppet.py', 'reproduce', place.home, ','.join(STAGES), bad[0]]
            with open(self.file, 'w') as out:
                self.process = subprocess.Popen(words, stdout=out, start_new_session=True,
                                                env=os.environ | {faults.MARK: place.mark})
    bad = ['']
    monkeypatch.setattr(faults, 'Call', Puppet)
    monkeypatch.setattr(faults, 'VICTIMS', ['call', 'all'])
    return bad

def test_a_graph_is_killed_as_often_as_asked_and_a_campaign_goes_on(tmp_path, puppet, capsys):
    folder = tmp_path/'faults'
    assert run_campaign(folder, SMOKE, kills=3, only=['killed'])
    rows = load_json(folder/'rows.json')
    assert sum(r['fault'].startswith('killed') for r in rows) == 3 and rows[-1]['fault'] == 'after kills'
    assert {r['outcome'] for r in rows} == {'as expected'} and all(r['seconds'] >= 0 for r in rows)
    assert run_campaign(folder, SMOKE, kills=4, only=['killed'])       # goes on: one more, nothing anew
    more = load_json(folder/'rows.json')
    assert more[:len(rows)] == rows and sum(r['fault'].startswith('killed') for r in more) == 4
    assert (folder/'faults.csv').read_text().count('\n') == len(more)+1 and (folder/'faults.md').exists()

def test_a_campaign_sees_other_bytes(tmp_path, puppet):
    puppet[0] = 'data'                                                 # a stage that loses work when it is killed
    assert not run_campaign(tmp_path, SMOKE, kills=6, only=['killed'])
    assert any('other bytes: seed0/data/a' in r['outcome'] for r in load_json(tmp_path/'rows.json'))

def test_two_campaigns_in_one_folder_are_one_sentence(tmp_path):
    from filelock import FileLock
    with FileLock(tmp_path/'.lock'):
        with pytest.raises(DreamError, match='A campaign is at work'): run_campaign(tmp_path, SMOKE)

def test_what_cannot_be_made_here_is_skipped_with_its_reason(tmp_path, puppet, monkeypatch):
    def none(c): raise faults.Skipped('mount is not permitted')
    monkeypatch.setattr(faults, 'FAULTS', {'full disk': none})
    assert run_campaign(tmp_path, SMOKE, only=['full disk'])
    assert load_json(tmp_path/'rows.json')[-1]['outcome'] == 'skipped: mount is not permitted'

def test_only_what_tells_when_is_left_out_of_the_comparison(run, tmp_path):
    home = run.folder.parent
    shutil.copytree(home, other := tmp_path/'other')
    p = other/'seed0'/'sampling'/'provenance.json'
    p.write_text(json.dumps(load_json(p) | dict(time='later', commit='other', packages={})))
    (other/'seed0'/'sampling'/'begun.json').write_text('{}')
    assert differing(home, other) == [] and 'seed0/sampling/provenance.json' in artifacts(home)
    p.write_text(json.dumps(load_json(p) | dict(key='other')))
    (other/'seed0'/'training'/'a').write_text('other'); (other/'seed0'/'data'/'b').unlink()
    assert differing(home, other) == ['seed0/data/b', 'seed0/sampling/provenance.json', 'seed0/training/a']
