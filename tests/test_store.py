"A store of finished stages: what comes from it is what would be computed, or is refused; in a folder, and in a bucket."
import io, os, socket, tarfile

import pytest
from dream_ood.core import DreamError, load_json, save_json
from dream_ood.runs import Run
from dream_ood.store import found, get, put, within
from dream_ood.study import Profile
from conftest import tiny_profile
from test_decoding import prepared, settings   # noqa: F401  a fixture

@pytest.fixture
def bucket(tmp_path, monkeypatch):
    "A store in a folder."
    monkeypatch.setenv('DREAM_OOD_STORE', str(tmp_path/'store'))
    return tmp_path/'store'

@pytest.fixture
def s3(monkeypatch, tmp_path):
    "A store in a bucket of a local server."
    pytest.importorskip('s3fs'); pytest.importorskip('moto.server')
    with socket.socket() as s: s.bind(('', 0)); port = s.getsockname()[1]
    for k, v in dict(ACCESS_KEY_ID='x', SECRET_ACCESS_KEY='x', DEFAULT_REGION='us-east-1',
                     ENDPOINT_URL=f'http://127.0.0.1:{port}').items(): monkeypatch.setenv(f'AWS_{k}', v)
    from moto.server import ThreadedMotoServer
    server = ThreadedMotoServer('127.0.0.1', port, verbose=False); server.start()
    import s3fs
    s3fs.S3FileSystem.clear_instance_cache()
    s3fs.S3FileSystem().mkdir(f'dreams{port}')          # the server keeps its buckets as long as this process
    monkeypatch.setenv('DREAM_OOD_STORE', f's3://dreams{port}/runs/')
    yield f's3://dreams{port}/runs'
    server.stop(); s3fs.S3FileSystem.clear_instance_cache()

def made(run, *stages, of='a'):
    "Stages as they would be made, without their work."
    for name in stages:
        s = run.stage(name).begin()
        for f in ('result.json', 'knn/boot/1.json'): save_json(s/f, f'{name} {of}')
        s.finish()
    return run

def elsewhere(run, folder): return Run.open(run.profile, run.seed, folder)
def files(stage): return {f.relative_to(stage.folder).as_posix(): f.read_bytes()
                          for f in stage.folder.rglob('*') if f.is_file()}
CHAIN = 'data', 'foundation', 'latent_space', 'sampling'

# -- stages -----------------------------------------------------------------------------------------------------------
def test_without_a_store_nothing_is_kept(foundation, tmp_path, monkeypatch):
    monkeypatch.delenv('DREAM_OOD_STORE', raising=False)
    run = made(Run.open(tiny_profile(foundation), 0, tmp_path/'a'), 'data')
    assert not elsewhere(run, tmp_path/'b').stage('data').ready()

def test_another_machine_finds_every_stage_as_it_was_made(foundation, tmp_path, bucket, capsys):
    run = made(Run.open(tiny_profile(foundation), 0, tmp_path/'a'), *CHAIN)
    assert len([*bucket.rglob('*.tar')]) == len(CHAIN)
    there = elsewhere(run, tmp_path/'b')
    assert there.stage('sampling').require() is not None     # and all that it reads
    for name in CHAIN:
        assert there.stage(name).done and files(there.stage(name)) == files(run.stage(name))
    assert capsys.readouterr().out.count('fetched from') == len(CHAIN)
    there.stage('data').ready()                              # at hand now
    assert 'fetched' not in capsys.readouterr().out

def test_what_is_made_from_something_else_is_not_taken(foundation, tmp_path, bucket):
    made(Run.open(tiny_profile(foundation), 0, tmp_path/'a'), 'data')
    assert not Run.open(tiny_profile(foundation), 1, tmp_path/'b').stage('data').ready()            # another seed
    assert not Run.open(tiny_profile(foundation, data=dict(image_size=28)), 0, tmp_path/'b').stage('data').ready()

def test_studies_that_share_a_stage_share_its_file(foundation, tmp_path, bucket):
    p = tiny_profile(foundation)
    made(Run.open(p, 0, tmp_path/'a'), 'data')
    other = Run.open(p.model_copy(update=dict(name='other')), 0, tmp_path/'a')
    assert other.stage('data').ready() and len([*bucket.rglob('*.tar')]) == 1

def test_earlier_results_are_set_aside_and_not_lost(foundation, tmp_path, bucket):
    run = made(Run.open(tiny_profile(foundation), 0, tmp_path/'a'), 'data')
    there = elsewhere(run, tmp_path/'b')
    save_json(there.stage('data')/'begun.json', dict(key='of something else'))
    save_json(there.stage('data')/'mine.json', 1)
    assert there.stage('data').ready() and files(there.stage('data')) == files(run.stage('data'))
    assert [f.read_text() for f in there.folder.glob('set_aside/*/mine.json')]

def test_a_damaged_stage_is_fetched_anew(foundation, tmp_path, bucket):
    run = made(Run.open(tiny_profile(foundation), 0, tmp_path/'a'), 'data')
    (run.stage('data')/'result.json').write_text('other')
    assert not run.stage('data').done and run.stage('data').ready()
    assert load_json(run.stage('data')/'result.json') == 'data a'

def test_a_stage_that_was_done_before_there_was_a_store_is_put_there(foundation, tmp_path, bucket, monkeypatch):
    monkeypatch.delenv('DREAM_OOD_STORE')
    run = made(Run.open(tiny_profile(foundation), 0, tmp_path/'a'), 'data')
    monkeypatch.setenv('DREAM_OOD_STORE', str(bucket))
    run.stage('data').skip()
    assert elsewhere(run, tmp_path/'b').stage('data').ready()

def test_an_archive_that_was_changed_is_named_and_not_used(foundation, tmp_path, bucket):
    run = made(Run.open(tiny_profile(foundation), 0, tmp_path/'a'), 'data')
    tar, = bucket.rglob('*.tar')
    s = run.stage('data'); save_json(s/'result.json', 'something else')
    put(s.folder, files(s), str(tar))
    there = elsewhere(run, tmp_path/'b')
    with pytest.raises(DreamError, match='is not as it was written: remove it') as e: there.stage('data').ready()
    assert str(tar) in str(e.value) and not there.stage('data').folder.exists()
    tar.unlink()
    assert not there.stage('data').ready()

def test_an_archive_that_was_cut_short_is_one_sentence(foundation, tmp_path, bucket):
    run = made(Run.open(tiny_profile(foundation), 0, tmp_path/'a'), 'data')
    tar, = bucket.rglob('*.tar')
    tar.write_bytes(tar.read_bytes()[:700])
    there = elsewhere(run, tmp_path/'b')
    with pytest.raises(DreamError, match='cannot be read'): there.stage('data').ready()
    assert not there.stage('data').folder.exists()

def test_a_fetch_that_was_killed_is_begun_anew(foundation, tmp_path, bucket):
    run = made(Run.open(tiny_profile(foundation), 0, tmp_path/'a'), 'data')
    there = elsewhere(run, tmp_path/'b')
    (there.folder/'.data.fetched').mkdir(); (there.folder/'.data.fetched'/'result.json').write_text('ha')
    assert there.stage('data').ready() and files(there.stage('data')) == files(run.stage('data'))
    assert not (there.folder/'.data.fetched').exists()

@pytest.mark.parametrize('packed', [None, 'webdataset'])
def test_shards_of_other_machines_come_together(settings, tmp_path, bucket, packed):   # noqa: F811  a fixture
    "What is drawn on machines that share nothing is not drawn again where the stage is finished."
    from dream_ood import stages
    p = Profile(**settings | dict(decoding=settings['decoding'] | (dict(format=packed) if packed else {})))
    first = prepared(p, tmp_path/'first')
    for i in range(2): stages.run_decoding(elsewhere(first, tmp_path/f'shard{i}'), i, 2)
    last = elsewhere(first, tmp_path/'last')
    with pytest.MonkeyPatch.context() as m:
        m.setattr(stages, 'foundation_of', lambda *a: pytest.fail('drawn again'))
        stages.run_decoding(last)
    with pytest.MonkeyPatch.context() as m:
        m.delenv('DREAM_OOD_STORE')
        stages.run_decoding(first)                 # alone
    assert last.stage('decoding').done and first.stage('decoding').result() == last.stage('decoding').result()

# -- files ------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize('name', ['../x', '/etc/x', 'a/../../x', '', 'a\\x'])
def test_names_that_leave_the_folder_are_not_unpacked(tmp_path, name):
    assert not within(name)
    with tarfile.open(tmp_path/'t.tar', 'w') as t: t.addfile(tarfile.TarInfo(name), io.BytesIO())
    with pytest.raises(DreamError): get(str(tmp_path/'t.tar'), tmp_path/'in')
    assert not [f for f in tmp_path.rglob('*') if f.is_file() and f.name != 't.tar']

@pytest.mark.parametrize('kind', [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE, tarfile.CHRTYPE])
def test_only_plain_files_are_unpacked(tmp_path, kind):
    with tarfile.open(tmp_path/'t.tar', 'w') as t:
        i = tarfile.TarInfo('x'); i.type = kind; i.linkname = '/etc/passwd'; t.addfile(i)
    with pytest.raises(DreamError, match='no plain file'): get(str(tmp_path/'t.tar'), tmp_path/'in')
    assert not os.path.lexists(tmp_path/'in'/'x')

def test_an_archive_appears_whole_or_not_at_all(tmp_path):
    (tmp_path/'a').write_text('x')
    with pytest.raises(DreamError, match='cannot be written'): put(tmp_path, ['a', 'gone'], f'{tmp_path}/store/t.tar')
    assert not found(f'{tmp_path}/store/*')
    (tmp_path/'gone').write_text('y'); put(tmp_path, ['a', 'gone'], f'{tmp_path}/store/t.tar')
    assert len(found(f'{tmp_path}/store/*')) == 1
    assert sorted(get(f'{tmp_path}/store/t.tar', tmp_path/'b')) == ['a', 'gone']

def test_a_kind_of_store_that_is_unknown_is_one_sentence(tmp_path):
    with pytest.raises(DreamError, match='cannot be looked for: Protocol not known'): found('nothing://bucket/x')

# -- a bucket ---------------------------------------------------------------------------------------------------------
def test_stages_go_through_s3(s3, foundation, tmp_path):
    run = made(Run.open(tiny_profile(foundation), 0, tmp_path/'a'), *CHAIN)
    there = elsewhere(run, tmp_path/'b')
    assert there.stage('sampling').ready()
    for name in CHAIN: assert files(there.stage(name)) == files(run.stage(name))
    assert len(found(f'{s3}/sampling/*.tar')) == 1

def test_a_large_file_goes_through_s3_whole_or_not_at_all(s3, tmp_path):
    "More than one part of an upload (which is 50 MB)."
    (tmp_path/'big').write_bytes(os.urandom(2**20)*70); (tmp_path/'small').write_text('x')
    with pytest.raises(DreamError): put(tmp_path, ['big', 'gone'], f'{s3}/t.tar')
    assert not found(f'{s3}/t.tar')
    put(tmp_path, ['big', 'small'], f'{s3}/t.tar')
    get(f'{s3}/t.tar', tmp_path/'in')
    assert (tmp_path/'in'/'big').read_bytes() == (tmp_path/'big').read_bytes()

def test_a_bucket_that_is_not_there_is_one_sentence(s3, foundation, tmp_path, monkeypatch):
    monkeypatch.setenv('DREAM_OOD_STORE', 's3://nobodys')
    run = Run.open(tiny_profile(foundation), 0, tmp_path/'a')
    with pytest.raises(DreamError, match='s3://nobodys/data/.* cannot be written') as e: made(run, 'data')
    assert '\n' not in str(e.value) and run.stage('data').done       # it is done, and put there at the next call
