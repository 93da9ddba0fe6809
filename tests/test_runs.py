"Run folders, profiles and provenance: what must hold whatever the notebooks show."
import os,signal,subprocess,sys,time
from pathlib import Path
import pytest,torch,yaml
from dream_ood.core import *
from dream_ood.settings import *
from dream_ood.study import *
from dream_ood.runs import *
from dream_ood.plots import *

ROOT = Path(__file__).parent.parent
MINI = ROOT/'profiles'/'mini.yaml'
# without a name: a base of others
PROFILES = [f for f in sorted((ROOT/'profiles').glob('*.yaml')) if 'name' in yaml.safe_load(f.read_text())]

@pytest.fixture
def mini(): return yaml.safe_load(MINI.read_text())

def written(tmp_path, d):
    f = tmp_path/'mine.yaml'
    f.write_text(yaml.safe_dump(d))
    return f

@pytest.mark.parametrize('path', PROFILES, ids=lambda p:p.stem)
def test_every_shipped_profile_loads(path): assert load_profile(path).name==path.stem

@pytest.mark.parametrize('key,value,words', [
    ('latent_space.epoch', 3, "'latent_space.epoch' is not a known key"),
    ('nonsense', 1, "'nonsense' is not a known key"),
    ('training.lr', 'fast', 'training.lr'),
    ('training.beta', -1, 'training.beta'),
    ('latent_space.temperature', 0, 'latent_space.temperature'),
    ('decoding.steps', 1.5, 'decoding.steps'),
    ('sampling.pools.knn.rule', 'magic', 'sampling.pools.knn.rule'),
    ('foundation.prompt', 'no slot', 'prompt needs exactly one {}'),
    ('data.classes', ['coat','coat'], 'classes has a name twice'),
    ('data.ood.sandal.group', 'nearish', 'data.ood.sandal.group'),
    ('dream_id.inliers', 'insiders', 'insiders'),
    ('training.contenders.dream_ood.outliers', 'gone', 'gone'),
    ('evaluation.methods.Energy.contender', 'gone', 'gone'),
    ('name', '../up', 'name'),
])
def test_impossible_profile_is_one_sentence(tmp_path, mini, key, value, words):
    *at,last = key.split('.'); x = mini
    for a in at: x = x[a]
    x[last] = value
    with pytest.raises(DreamError) as e: load_profile(written(tmp_path,mini))
    assert words in str(e.value) and 'mine.yaml' in str(e.value) and '\n' not in str(e.value)

def test_missing_key_missing_file_and_broken_yaml(tmp_path, mini):
    del mini['training']['lr']
    with pytest.raises(DreamError, match="'training.lr' is missing"): load_profile(written(tmp_path,mini))
    with pytest.raises(DreamError, match='no profile'): load_profile(tmp_path/'none.yaml')
    (tmp_path/'bad.yaml').write_text('a: [1,')
    with pytest.raises(DreamError, match='not valid YAML'): load_profile(tmp_path/'bad.yaml')
    (tmp_path/'empty.yaml').write_text('')
    with pytest.raises(DreamError, match='no keys'): load_profile(tmp_path/'empty.yaml')

def test_command_line_says_one_sentence(tmp_path):
    r = subprocess.run([sys.executable,'-m','dream_ood','check',str(tmp_path/'none.yaml')],
                       capture_output=True, text=True)
    assert r.returncode==2 and r.stderr.startswith('Error: ') and r.stderr.count('\n')==1

def changed(p, **sections):
    return Profile(**(p.model_dump()|{k:getattr(p,k).model_dump()|v for k,v in sections.items()}))

def finished(run, *names):
    for n in names:
        s = run.stage(n).begin()
        save_json(s/'out.json', n)
        s.finish()

def test_stage_is_done_only_from_the_same_inputs(tmp_path):
    p = load_profile(MINI); run = Run.open(p, 0, tmp_path)
    names = ('data','foundation','latent_space','sampling','decoding','training')
    finished(run, *names)
    assert all(run.stage(n).done for n in names)
    other = Run(changed(p, training=dict(beta=.7)), 0, tmp_path)
    assert other.stage('decoding').done and not other.stage('training').done
    assert not Run(p, 1, tmp_path).stage('data').done

@pytest.mark.parametrize('change,stale', [
    (dict(mean=[.4,.4,.4]), ['latent_space','training','dream_id','evaluation']),
    (dict(augment='none'), ['latent_space','training','dream_id','evaluation']),
    (dict(ood={}), ['evaluation']), (dict(validation_outliers=None), ['evaluation']),
    (dict(wide=None), ['training','evaluation'])])
def test_a_setting_of_the_data_makes_stale_what_reads_it(tmp_path, change, stale):
    p = load_profile(MINI); run = Run.open(p, 0, tmp_path); finished(run, *STAGES)
    p = p.model_copy(update=dict(data=p.data.model_copy(update=change)))
    other = Run(p, 0, tmp_path)
    # they write what they wrote before
    finished(other, *(s for s in ('data','foundation') if not other.stage(s).done))
    now = [s for s in STAGES if not other.stage(s).done]
    assert set(stale) <= set(now) and (set(now) == set(stale) or 'latent_space' in stale), now

def test_changed_output_of_an_earlier_stage_makes_later_ones_stale(tmp_path):
    run = Run.open(load_profile(MINI), 0, tmp_path)
    finished(run, 'data','foundation','latent_space')
    save_json(run.stage('foundation')/'out.json', 'other'); run.stage('foundation').finish()
    assert not run.stage('latent_space').done
    finished(run, 'latent_space')
    run.stage('foundation').finish()      # rerun with the same result:
    assert run.stage('latent_space').done # nothing later is stale

def test_lost_or_truncated_output_is_not_done(tmp_path):
    run = Run.open(load_profile(MINI), 0, tmp_path)
    finished(run, 'data')
    (run.stage('data')/'out.json').write_text('')
    assert not run.stage('data').done
    (run.stage('data')/'out.json').unlink()
    assert not run.stage('data').done

def test_half_done_work_is_kept_for_the_same_inputs_and_set_aside_for_others(tmp_path):
    p = load_profile(MINI); run = Run.open(p, 0, tmp_path)
    s = run.stage('data').begin(); save_json(s/'half.json', 1)
    assert (run.stage('data').begin()/'half.json').exists()
    other = Run(changed(p, data=dict(image_size=64)), 0, tmp_path)
    assert not (other.stage('data').begin()/'half.json').exists()
    assert len(list((run.folder/'set_aside').glob('*/half.json')))==1

def test_a_stage_refuses_to_begin_before_its_inputs(tmp_path):
    run = Run.open(load_profile(MINI), 0, tmp_path)
    with pytest.raises(DreamError, match='02_foundation|01_data'): run.stage('latent_space').begin()
    with pytest.raises(DreamError, match='no stage'): run.stage('latentspace')

def test_unwritable_run_folder_is_one_sentence(tmp_path):
    (tmp_path/'file').write_text('')
    with pytest.raises(DreamError, match='Cannot write'): Run.open(load_profile(MINI), 0, tmp_path/'file')
    if os.geteuid():  # root may write anywhere
        (tmp_path/'shut').mkdir(mode=0o500)
        with pytest.raises(DreamError, match='Cannot write'): Run.open(load_profile(MINI), 0, tmp_path/'shut')

def test_kill_leaves_nothing_under_the_final_name(tmp_path):
    code = (f"from dream_ood.runs import atomic; import time\nwith atomic({str(tmp_path/'a.txt')!r}) as p:\n "
            "p.write_text('half'); print('ready',flush=True); time.sleep(60)")
    p = subprocess.Popen([sys.executable,'-c',code], stdout=subprocess.PIPE)
    p.stdout.readline(); p.send_signal(signal.SIGKILL); p.wait()
    assert not (tmp_path/'a.txt').exists()
    with atomic(tmp_path/'a.txt') as t: t.write_text('whole')
    assert (tmp_path/'a.txt').read_text()=='whole'

def test_damaged_artifacts_are_one_sentence(tmp_path):
    (tmp_path/'t.safetensors').write_bytes(b'garbage'); (tmp_path/'t.json').write_text('{')
    with pytest.raises(DreamError, match='damaged'): load_tensors(tmp_path/'t.safetensors')
    with pytest.raises(DreamError, match='damaged'): load_json(tmp_path/'t.json')
    with pytest.raises(DreamError, match='no file'): load_tensors(tmp_path/'none.safetensors')

def test_seeds_depend_on_their_arguments_alone(tmp_path):
    run = Run.open(load_profile(MINI), 3, tmp_path)
    a = torch.rand(4, generator=run.generator('a')); torch.rand(100); b = torch.rand(4, generator=run.generator('a'))
    assert a.equal(b) and not a.equal(torch.rand(4, generator=run.generator('b')))
    assert seed_for(0,1,12)!=seed_for(0,11,2)
    assert 0<=seed_for(0)<2**63

def test_provenance_says_where_it_comes_from(tmp_path):
    run = Run.open(load_profile(MINI), 0, tmp_path); finished(run,'data')
    p = load_json(run.stage('data')/'provenance.json')
    assert (p['inputs']['seed']==0 and p['packages']['torch'] and p['outputs']['out.json']['sha256']
            and p['inputs']['profile']['data'])

def test_the_foundation_is_stale_when_a_noun_is_kept_aside(tmp_path):
    d = load_profile(Path(__file__).parent.parent/'profiles'/'mini.yaml').model_dump()
    d['data']['validation_outliers'] = dict(kind='folder', path=str(tmp_path/'aside'))
    (tmp_path/'aside'/'teapot').mkdir(parents=True)
    key = lambda: Run(Profile(**d), 0, tmp_path/'runs').stage('foundation').key
    before = key()
    assert before==key()
    (tmp_path/'aside'/'violin').mkdir()
    assert before!=key()

def test_the_foundation_is_stale_when_a_test_set_shows_a_noun():
    p = load_profile(MINI)
    def key(ood):
        changed = p.model_copy(update=dict(data=p.data.model_copy(update=dict(ood=ood))))
        return Run(changed, 0).stage('foundation').key
    faces = p.data.ood['faces']
    assert key(p.data.ood)==key({n:s for n,s in p.data.ood.items() if n!='faces'})
    assert key(p.data.ood)!=key(p.data.ood|{'faces':faces.model_copy(update=dict(shows=['mask']))})

def _really_full(f): f.symlink_to('/dev/full'); f.write_text('half')   # a device that has no room
def _safetensors(f):  # what safetensors says, which is no OSError
    f.write_text('half')
    raise RuntimeError('Error while serializing: I/O error: No space left on device (os error 28)')

@pytest.mark.parametrize('write', [_really_full, _safetensors])
def test_a_full_disk_is_one_sentence_whoever_writes(tmp_path, write):
    (tmp_path/'a.bin').write_text('whole')
    with pytest.raises(DreamError, match='no room to write .*what is finished is kept') as e:
        with atomic(tmp_path/'a.bin') as f: write(f)
    assert ('\n' not in str(e.value) and [f.name for f in tmp_path.iterdir()]==['a.bin']
            and (tmp_path/'a.bin').read_text()=='whole')

def test_results_set_aside_within_one_second_do_not_collide(tmp_path):
    d = yaml.safe_load(MINI.read_text())
    for batch_size in (500, 400, 300, 200):
        d['evaluation']['batch_size'] = batch_size
        d['latent_space']['batch_size'] = batch_size
        run = Run.open(Profile(**d), 0, tmp_path)
        for name in ('data', 'foundation'):
            if not run.stage(name).done:
                (s := run.stage(name).begin()) and save_json(s/'made.json', name); s.finish('made.json')
        save_json(run.stage('latent_space').begin()/'made.json', batch_size)
    kept = sorted(load_json(f) for f in (run.folder/'set_aside').glob('latent_space-*/made.json'))
    assert kept == [300, 400, 500] and load_json(run.stage('latent_space')/'made.json') == 200

def test_runs_of_a_checkout_are_not_taken_for_those_of_another_folder(tmp_path, monkeypatch):
    from dream_ood import core
    for f in ('checkout/_runs/x', 'checkout/profiles', 'empty'): (tmp_path/f).mkdir(parents=True)
    (tmp_path/'checkout'/'profiles'/'a.yaml').write_text('name: a')
    monkeypatch.setattr(core, 'SHIPPED', tmp_path/'checkout'); monkeypatch.chdir(tmp_path/'empty')
    assert core.resolve('_runs')==tmp_path/'empty'/'_runs' and core.resolve('_runs/x')==tmp_path/'empty'/'_runs'/'x'
    assert core.resolve('profiles/a.yaml')==tmp_path/'checkout'/'profiles'/'a.yaml'
