"A profile that changes keeps what the change does not touch; studies beside one another share what is the same."
import os, shutil
import pytest
from dream_ood import runs
from dream_ood.core import load_json, save_json
from dream_ood.runs import Run
from dream_ood.stages import run_dream_id, run_training
from dream_ood.study import Profile
from conftest import tiny_profile, with_dreams

@pytest.fixture(scope='module')
def profile(foundation): return tiny_profile(foundation)

@pytest.fixture(scope='module')
def done(profile, tmp_path_factory):
    "A run that is trained."
    run = with_dreams(Run.open(profile, 0, tmp_path_factory.mktemp('done')))
    run_training(run)
    return run

@pytest.fixture
def run(done, tmp_path):
    "A copy of it."
    shutil.copytree(done.folder.parent.parent, tmp_path/'runs')
    return Run(done.profile, 0, tmp_path/'runs')

@pytest.fixture
def same(monkeypatch):
    "What lies beside was made by this code."
    monkeypatch.setattr(runs, 'same_code', lambda then: True)

def changed(profile, change, name=None):
    d = profile.model_dump()
    change(d)
    return Profile(**d|(dict(name=name) if name else {}))

def with_another(d):
    d['training']['contenders'] = {'before': {}} | d['training']['contenders'] | {
        'after': dict(start='plain', outliers='knn', phi='linear')}

def contents(folder): return {f.relative_to(folder).as_posix(): f.read_bytes() for f in folder.rglob('*')
                              if f.is_file() and f.name not in ('begun.json', 'provenance.json')}
def places(folder): return {f.name: f.stat().st_ino for f in folder.iterdir()}

# -- a profile that changes -------------------------------------------------------------------------------------------
def test_a_contender_more_is_all_that_is_trained(run, tmp_path, capsys):
    before, had = places(run.stage('training').folder), contents(run.stage('training').folder)
    more = Run(changed(run.profile, with_another), 0, run.folder.parent.parent)
    run_training(more)
    stage = more.stage('training')
    assert stage.done and 'plain is made from the same as before' in capsys.readouterr().out
    after = places(stage.folder)
    for n in ('plain', 'longer', 'dreams', 'wide'):
        for kind in ('csv', 'safetensors'): assert after[f'{n}.{kind}'] == before[f'{n}.{kind}'], n
    assert {'before.safetensors', 'after.safetensors'} <= set(after)
    taken = stage._read('provenance.json')['taken']
    assert {'plain', 'longer', 'dreams', 'wide'} <= set(taken) and not {'before', 'after'} & set(taken)
    aside, = (run.folder/'set_aside').glob('training-*')
    assert contents(aside) == had                                   # what was there is still whole
    fresh = with_dreams(Run.open(more.profile, 0, tmp_path/'elsewhere'))
    run_training(fresh)
    assert contents(fresh.stage('training').folder) == contents(stage.folder)

def test_what_a_change_touches_is_made_anew(run):
    def keys(profile): return {n: Run(profile, 0, run.folder.parent.parent).stage('training').part_key(n)
                               for n in profile.training.contenders}
    now = keys(run.profile)
    assert len(set(now.values())) == len(now)
    def touched(change): return {n for n,k in keys(changed(run.profile, change)).items() if now.get(n) != k}
    def set_in(*path, **values):
        def f(d):
            for k in path: d = d[k]
            d |= values
        return f
    of = ('training', 'contenders')
    assert touched(set_in(*of, 'dreams', phi='linear')) == {'dreams'}
    assert touched(set_in(*of, 'plain', beta=.5)) == set(now)            # all start from it
    assert touched(set_in('training', batch_size=8)) == set(now)
    assert touched(set_in('evaluation', k=3)) == set()
    assert touched(set_in('decoding', steps=9)) == set()      # what was drawn counts, not how: see the next lines
    p = run.stage('decoding')/'provenance.json'
    save_json(p, load_json(p)|dict(outputs={'knn/metadata.parquet': dict(size=1, sha256='another')}))
    assert {n for n,k in keys(run.profile).items() if now[n] != k} == {'dreams'}

def test_a_part_that_was_damaged_is_made_anew(run):
    stage = run.stage('training')
    f, was = stage/'dreams.safetensors', (stage/'dreams.safetensors').read_bytes()
    f.write_bytes(was[:-8]+b'\0'*8)
    more = Run(changed(run.profile, with_another), 0, run.folder.parent.parent)
    run_training(more)
    assert (more.stage('training')/'dreams.safetensors').read_bytes() == was

def test_killed_on_the_way_it_has_all_parts(run, monkeypatch):
    more = Run(changed(run.profile, with_another), 0, run.folder.parent.parent)
    before = places(run.stage('training').folder)
    with monkeypatch.context() as m:
        def killed(self): raise KeyboardInterrupt
        m.setattr(runs.Stage, 'set_aside', killed)
        with pytest.raises(KeyboardInterrupt): more.stage('training').begin()
    assert run.stage('training').done                               # nothing was taken from it
    with monkeypatch.context() as m:
        kept = runs.Path.rename
        def rename(self, to):
            if self.name == '.training.next': raise KeyboardInterrupt
            return kept(self, to)
        m.setattr(runs.Path, 'rename', rename)
        with pytest.raises(KeyboardInterrupt): more.stage('training').begin()
    after = places(more.stage('training').begin().folder)
    assert after['plain.safetensors'] == before['plain.safetensors'] and 'dreams.csv' in after

def test_half_a_training_goes_on(run):
    "A checkpoint of what has not changed is work, too."
    folder = run.stage('training').folder
    (folder/'provenance.json').unlink(); (folder/'dreams.safetensors').rename(folder/'dreams.checkpoint')
    assert {'dreams.checkpoint', 'dreams.csv'} <= set(places(
        Run(changed(run.profile, with_another), 0, run.folder.parent.parent).stage('training').begin().folder))

def test_another_contender_and_outlier_pool_leave_dream_id_as_it_is(run, monkeypatch):
    run_dream_id(run)
    had = contents(run.stage('dream_id').folder)
    monkeypatch.setattr('dream_ood.stages.train_on', None)          # nothing is trained
    more = Run(changed(run.profile, with_another), 0, run.folder.parent.parent)
    assert not more.stage('dream_id').done
    run_dream_id(more)
    assert more.stage('dream_id').done and contents(more.stage('dream_id').folder) == had
    def key_if_drawn_otherwise(pool):
        p = run.stage('decoding')/'provenance.json'
        save_json(p, load_json(p)|dict(outputs={f'{pool}/metadata.parquet': dict(size=1, sha256='another')}))
        return more.stage('dream_id').part_key('')
    key = more.stage('dream_id').part_key('')
    assert key_if_drawn_otherwise('knn') == key != key_if_drawn_otherwise('inliers')

# -- studies beside one another ---------------------------------------------------------------------------------------
def beside(run, change=lambda d: None): return Run(changed(run.profile, change, 'beside'), 0, run.folder.parent.parent)

def test_a_study_takes_whole_stages_from_one_beside_it(run, same, capsys):
    other = beside(run, with_another)
    for n in ('data', 'foundation', 'latent_space', 'sampling', 'decoding'):
        stage = other.stage(n)
        assert stage.ready() and stage.done
        assert contents(stage.folder) == contents(run.stage(n).folder)
    assert 'decoding: taken from' in capsys.readouterr().out
    run_training(other)
    taken = other.stage('training')._read('provenance.json')['taken']
    assert set(taken) == {'plain', 'longer', 'dreams', 'wide', *({''} & set(taken))}
    assert {t['from'] for t in taken.values()} == {runs.nice(run.stage('training').folder)}

def test_going_back_brings_back(run, same):
    had = contents(run.stage('training').folder)
    Run(changed(run.profile, with_another), 0, run.folder.parent.parent).stage('training').begin()
    assert not run.stage('training').done and run.stage('training').ready()
    assert contents(run.stage('training').folder) == had

@pytest.mark.parametrize('what', ['other code', 'said no', 'another seed', 'harmed', 'unfinished', 'other inputs'])
def test_what_is_not_the_same_is_not_taken(run, what, monkeypatch):
    monkeypatch.setattr(runs, 'same_code', lambda then: what != 'other code')
    if what == 'said no': monkeypatch.setenv('DREAM_OOD_REUSE', '0')
    other = beside(run, (lambda d: d['data'].update(image_size=24)) if what == 'other inputs' else lambda d: None)
    if what == 'another seed': other = Run(other.profile, 1, run.folder.parent.parent)
    if what == 'harmed': (run.stage('data')/'made.json').write_text('"other"')
    if what == 'unfinished': (run.stage('data')/'provenance.json').unlink()
    assert not other.stage('data').ready() and not other.stage('data').folder.exists()

def test_code_that_changed_is_other_code(monkeypatch):
    now = dict(commit='a', packages=dict(torch='1'), device='x86_64', time='now')
    monkeypatch.setattr(runs, 'provenance', lambda: now)
    assert runs.same_code(now|dict(time='then'))
    for k in ('commit', 'packages', 'device'): assert not runs.same_code(now|{k: 'other'})
    assert not runs.same_code({})
    now['commit'] = 'a-dirty'
    assert not runs.same_code(now)

def test_a_disk_without_links_gets_copies(run, same, monkeypatch):
    def no(*args): raise OSError(1, 'Operation not permitted')
    monkeypatch.setattr(os, 'link', no)
    other = beside(run)
    assert other.stage('data').ready() and contents(other.stage('data').folder) == contents(run.stage('data').folder)
