"""Decoded pools in tar shards: the same images as in files, whatever was killed or lost on the way."""
import io, json, tarfile
import pandas as pd, pytest, torch
from PIL import Image
from dream_ood import decoding, stages
from dream_ood.data import in_shards, pool_set
from dream_ood.decoding import missing, pool_files
from dream_ood.settings import Decoding
from dream_ood.stages import complete, gallery_data, outliers_of, plan_of, pool_images, refused, run_decoding
from dream_ood.study import Profile
from test_decoding import prepared, settings   # noqa: F401  a fixture

POOLS = dict(knn=21, inliers=6, plain=9, names=6)

def run_of(settings, root, **how):
    return prepared(Profile(**settings | dict(decoding=settings['decoding'] | how)), root)

def shards(run): return {f.relative_to(run.stage('decoding').folder).as_posix(): f.read_bytes()
                         for f in run.stage('decoding').folder.rglob('*.tar')}

@pytest.fixture(scope='module')
def both(settings, tmp_path_factory):
    "A run with a file for each image, and one in shards of five."
    made = [run_of(settings, tmp_path_factory.mktemp('runs'), **how)
            for how in ({}, dict(format='webdataset', per_shard=5))]
    for r in made: run_decoding(r)
    return made

def test_recorded_keys_stay(settings):
    assert 'format' not in Decoding(**settings['decoding']).model_dump()

@pytest.mark.parametrize('pool,n', POOLS.items())
def test_later_stages_read_the_same_images_in_the_same_order(both, pool, n):
    files, tars = (pool_set(r.stage('decoding')/pool, r.profile.data.classes, True) for r in both)
    assert len(files) == len(tars) == n and torch.equal(files.labels, tars.labels)
    assert torch.equal(files.pixels(32), tars.pixels(32)) and torch.equal(files[0][0], tars[0][0])
    a, b = (pd.read_parquet(r.stage('decoding')/pool/'metadata.parquet') for r in both)
    assert a.drop(columns='file_name').equals(b.drop(columns=['shard', 'offset']))
    folder = both[1].stage('decoding')/pool
    assert not [*folder.rglob('*.png')] and not (folder/'drawn').exists() and complete(folder)
    assert [*pool_files(folder)] == b.file.tolist() == [*in_shards(folder)]

def test_outliers_figures_and_gallery_are_the_same(both):
    a, b = (outliers_of(r, 'knn+inliers', per_class=2).pixels(32) for r in both)
    assert torch.equal(a, b)
    assert torch.equal(*(pool_images(r, 'knn', 'boot', 3) for r in both))
    a, b = (gallery_data(r) for r in both)
    assert [p['src'] for p in a['pools']] == [p['src'] for p in b['pools']]
    assert 'drawn' not in str(b['pools'][1]['columns']) and (both[1].stage('decoding')/'gallery.html').exists()
    assert 'shard-000000.tar' in (both[1].stage('decoding')/'knn'/'README.md').read_text()

def test_a_shard_is_one_of_webdatasets(both):
    folder = both[1].stage('decoding')/'knn'
    assert sorted(f.name for f in folder.glob('*.tar')) == [f'shard-{i:06d}.tar' for i in range(5)]   # 21 by fives
    with tarfile.open(folder/'shard-000001.tar') as t:
        assert t.getnames() == [f'{i:06d}.{s}' for i in range(5, 10) for s in ('png', 'json')]
        about = json.load(t.extractfile('000005.json'))
    assert about['class'] in ('coat', 'boot', 'shirt') and {'file', 'seed', 'prompt', 'distance'} <= {*about}

def test_the_webdataset_package_reads_it(both):
    wds = pytest.importorskip('webdataset', reason='the package webdataset is not installed')
    folder = both[1].stage('decoding')/'knn'
    got = list(wds.WebDataset([str(f) for f in sorted(folder.glob('*.tar'))], shardshuffle=False).decode('pil'))
    want = pool_files(folder)
    assert [s['json']['file'] for s in got] == [*want]
    for s, p in zip(got, want.values()):
        assert s['png'].convert('L').tobytes() == Image.open(io.BytesIO(p.read_bytes())).convert('L').tobytes()

def test_a_killed_run_loses_no_more_than_the_shard_it_was_filling(settings, both, tmp_path, monkeypatch):
    run = run_of(settings, tmp_path, format='webdataset', per_shard=5)
    draw, calls = decoding.draw, []
    def dies(*args, **kwargs):
        calls.append(len(args[1]))
        if len(calls) == 5: raise KeyboardInterrupt
        return draw(*args, **kwargs)
    monkeypatch.setattr(decoding, 'draw', dies)
    with pytest.raises(KeyboardInterrupt): run_decoding(run)
    monkeypatch.setattr(decoding, 'draw', draw)
    df, _ = plan_of(run, 'knn')
    lost = missing(df, run.stage('decoding')/'knn')
    drawn = sum(calls[:4])
    assert 15 == drawn//5*5 <= len(df) - len(lost) <= drawn
    for i in (1, 0): run_decoding(run, i, 2)                    # two jobs, in whatever order
    assert not any(missing(plan_of(run, n)[0], run.stage('decoding')/n) for n in POOLS)
    run_decoding(run)
    assert shards(run) == shards(both[1])                       # the same bytes as of a run that went through

def test_what_is_lost_or_damaged_is_drawn_again(settings, both, tmp_path):
    run = run_of(settings, tmp_path, format='webdataset', per_shard=5)
    run_decoding(run)
    knn = run.stage('decoding')/'knn'
    (knn/'shard-000002.tar').unlink()
    b = bytearray((knn/'shard-000003.tar').read_bytes()); p = pool_files(knn)['shirt/00002.png']
    assert p.tar.name == 'shard-000003.tar'
    b[p.offset+p.size//2] ^= 1; (knn/'shard-000003.tar').write_bytes(b)
    assert not complete(knn)
    run_decoding(run)
    assert shards(run) == shards(both[1]) and complete(knn)

def test_what_is_refused_is_set_aside_in_shards_and_taken_back(settings, tmp_path, monkeypatch):
    run = run_of(settings, tmp_path, format='webdataset', per_shard=4)
    names = [*plan_of(run, 'knn')[0].file[[0, 8, 20]]]
    monkeypatch.setattr(stages, 'black', lambda f: f.file in names)
    run_decoding(run)
    knn, aside = run.stage('decoding')/'knn', run.stage('decoding')/'refused'/'knn'
    assert [*pool_files(aside)] == names == [*in_shards(aside)] and not {*names} & {*pool_files(knn)}
    assert refused(run).loc['knn', 'drawn'] == 21 and len(pool_set(knn, run.profile.data.classes)) == 18
    (knn/'metadata.parquet').unlink()
    monkeypatch.setattr(stages, 'black', lambda f: False)
    monkeypatch.setattr(decoding, 'draw', None)                 # nothing has to be drawn
    run_decoding(run)
    assert len(in_shards(knn)) == 21 and refused(run).loc["knn", "black"] == 0

def test_a_shard_that_is_lost_or_cut_short_is_named_and_so_are_pictures(both):
    from dream_ood.workflow import lost_dreams
    files, tars = (r.stage('decoding') for r in both)
    assert lost_dreams(files) == lost_dreams(tars) == {}
    shard, pictures = tars/'knn'/'shard-000001.tar', [*(files/'names').rglob('*.png')]
    before = {f: f.read_bytes() for f in (shard, *pictures)}
    try:
        shard.write_bytes(before[shard][:600])
        assert lost_dreams(tars) == {'knn/shard-000001.tar': 'was cut short'}
        for f in before: f.unlink()
        assert lost_dreams(tars) == {'knn/shard-000001.tar': 'is lost'}
        lost = lost_dreams(files)
        assert {*lost.values()} == {'is lost'} and len(lost) == len(pictures) == POOLS['names']
    finally:
        for f, data in before.items(): f.write_bytes(data)
