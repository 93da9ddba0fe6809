"Folders as people have them: no trap in reading them, and no picture on both sides of a split."
import os, shutil, warnings
from pathlib import Path

import numpy as np, pytest, torch, yaml
from PIL import Image
import dream_ood.data as data
from dream_ood.core import DreamError, listing
from dream_ood.data import *
from dream_ood.settings import SPLITS, Source, share_of, split_in_three
from dream_ood.stages import check_study
from dream_ood.study import load_profile, merged

ROOT = Path(__file__).parent.parent

def drawn(seed, size=(96, 80)):
    "A smooth picture of its own, in colour."
    g = np.random.default_rng(seed)
    return Image.fromarray(g.integers(0, 256, (6, 5, 3), dtype=np.uint8)).resize(size, Image.Resampling.BICUBIC)

@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv('DREAM_OOD_CACHE', str(tmp_path/'cache'))
    return tmp_path/'cache'

@pytest.fixture
def mine(tmp_path):
    "Two classes of sixty pictures."
    for k, c in enumerate(('boot', 'coat')):
        (tmp_path/'mine'/c).mkdir(parents=True)
        for i in range(60): drawn(100*k+i).save(tmp_path/'mine'/c/f'{i}.png')
    return tmp_path/'mine'

def profile(mine, **own):
    f = mine.parent/'mine.yaml'
    f.write_text(yaml.safe_dump(merged(dict(base=str(ROOT/'profiles'/'own_small.yaml'), name='mine', data=dict(
        images=str(mine), ood=dict(photographs=None, textures=None, symbols=None, faces=None, digits=None)),
        sampling=dict(pools={p: dict(k=5) for p in ('knn', 'drift', 'inliers')}), evaluation=dict(k=5)), own)))
    return load_profile(f)

def strangers(mine, n=3):
    d = mine.parent/'others'/'cup'; d.mkdir(parents=True)
    for i in range(n): drawn(900+i).save(d/f'{i}.png')
    return dict(ood=dict(others=dict(group='near', kind='folder', path=str(d.parent))))

def split_of(p): # name -> split
    return {Path(f).relative_to(p.data.train.path).as_posix(): s for s in SPLITS for f in id_set(p.data, s).images}

# -- what is a picture ------------------------------------------------------------------------------------------------
def test_what_is_no_photograph_is_left_out_named_and_counted(mine, capsys):
    for f in ('a.pdf', 'b.h5', 'c.eps', 'd.mpg', 'notes.txt'): (mine/'boot'/f).write_text('no picture')
    (mine/'boot'/'.old').mkdir(); drawn(1).save(mine/'boot'/'.old'/'x.png'); drawn(2).save(mine/'boot'/'._y.png')
    drawn(3).save(mine/'loose.png')
    p = profile(mine)
    check_study(p)
    said = capsys.readouterr().out
    assert len(split_of(p)) == 120
    assert "mine: 7 files left out: 'boot/.old' (hidden), 'boot/a.pdf' (no picture)" in said and '2 more' in said, said
    for f in ('c.eps', 'd.mpg', 'notes.txt'): (mine/'boot'/f).unlink()
    assert "'loose.png' (in no class folder)" in left_out(p.data.train, p.data.classes)

def test_a_picture_without_a_suffix_is_one_and_a_raw_file_is_not(tmp_path):
    for f, kind in (('IMG_1', 'jpeg'), ('b.jpg_large', 'png'), ('c', 'tiff'), ('raw.nef', 'tiff'), ('d.x', 'webp')):
        drawn(1).save(tmp_path/f, kind)
    got = list_folder(tmp_path)
    assert [f.name for f in got.files] == ['IMG_1', 'b.jpg_large', 'c', 'd.x']
    assert got.left == [('raw.nef', 'no picture')]

@pytest.mark.parametrize('name', ['a.heic', 'a.HEIC', 'IMG_7'])
def test_heic_is_read(tmp_path, name):
    import pillow_heif
    pillow_heif.from_pillow(drawn(5)).save(tmp_path/name, quality=90)
    assert [f.name for f in list_folder(tmp_path).files] == [name]
    x = read_image(tmp_path/name)
    assert x.shape == (3, 80, 96) and (x.float()-flat(drawn(5)).float()).abs().mean() < 4

def test_a_link_back_is_not_followed(mine):
    before = listing(mine)
    for c in ('boot', 'coat'):
        (mine/c/'back').symlink_to(mine, target_is_directory=True)
        (mine/c/'here').symlink_to(mine/c, target_is_directory=True)
    p = profile(mine)
    assert len(split_of(p)) == 120 and listing(mine) == before
    assert left_out(p.data.train, p.data.classes).count('a link back') == 4

def test_a_link_elsewhere_is_followed_once(mine, tmp_path):
    (tmp_path/'store').mkdir(); drawn(700).save(tmp_path/'store'/'a.png')
    for n in 'ab': (mine/'boot'/n).symlink_to(tmp_path/'store', target_is_directory=True)
    got = list_folder(mine)
    assert len(got.files) == 121 and got.left == [('boot/b', 'a link back')]

def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path/'a.png')
    with pytest.raises(DreamError, match='cannot be read'): read_image(tmp_path/'a.png')

# -- large and deep ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize('suffix,mode', [('jpg', 'L'), ('png', 'L'), ('png', 'P')])
def test_a_huge_picture_is_read_reduced_and_without_warnings(tmp_path, suffix, mode):
    i = Image.new('L', (20000, 9000), 40); i.paste(200, (0, 0, 20000, 4500))
    exif = Image.Exif(); exif[0x0112] = 6                                   # a camera held upright
    (i if mode == 'L' else i.convert('P')).save(tmp_path/f'a.{suffix}', exif=exif)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter('always')
        x = read_image(tmp_path/f'a.{suffix}')
    assert not said and x.shape == (3, 5000, 2250) and x[0, :, 1500:].eq(200).all() and x[0, :, :1000].eq(40).all()
    assert Image.MAX_IMAGE_PIXELS == 89478485

def test_deep_pictures_share_one_scale(tmp_path):
    values = dict(black=0, dark=6553, grey=32768, white=65535)
    for n, v in values.items():
        for s in ('png', 'tiff'): Image.fromarray(np.full((8, 8), v, np.uint16)).save(tmp_path/f'{n}.{s}')
    for s in ('png', 'tiff'):
        assert [read_image(tmp_path/f'{n}.{s}').unique().tolist() for n in values] == [[0], [25], [128], [255]]
    for n, v, at in (('half', .5, 128), ('eight', 100., 100), ('one', 1., 255)):
        Image.fromarray(np.full((8, 8), v, np.float32)).save(tmp_path/f'{n}.tiff')
        assert (read_image(tmp_path/f'{n}.tiff').float()-at).abs().max() <= 1
    Image.fromarray(np.full((8, 8), -3., np.float32)).save(tmp_path/'below.tiff')
    with pytest.raises(DreamError, match='values reach from -3 to -3'): read_image(tmp_path/'below.tiff')

def test_twelve_bits_in_sixteen_are_said_to_be_dark(tmp_path):
    d = tmp_path/'scans'/'cell'; d.mkdir(parents=True)
    for i in range(3): Image.fromarray(np.full((8, 8), 1000*i, np.uint16)).save(d/f'{i}.tiff')
    said, = copies_said(Source(kind='folder', path=str(d.parent)), data.ImageFormat(image_size=8))
    assert '3 pictures have 16 bits and no value above 2000' in said

# -- everything at the start ------------------------------------------------------------------------------------------
def test_a_broken_stranger_ends_the_check_and_all_bad_files_are_one_sentence(mine):
    own = strangers(mine) | dict(validation_outliers=dict(kind='folder', path=str(mine.parent/'more')))
    (mine.parent/'more'/'pot').mkdir(parents=True); drawn(800).save(mine.parent/'more'/'pot'/'a.png')
    p = profile(mine, data=own)
    check_study(p)
    for f in ('mine/boot/3.png', 'mine/coat/4.png', 'others/cup/0.png', 'more/pot/a.png'):
        (mine.parent/f).write_bytes(b'no picture')
    with pytest.raises(DreamError, match='4 of your images cannot be read') as e: check_study(p)
    said = str(e.value)
    assert '\n' not in said and 'boot/3.png' in said and 'coat/4.png' in said and 'and 1 more' in said
    for f in ('mine/boot/3.png', 'mine/coat/4.png'): (mine.parent/f).unlink()
    with pytest.raises(DreamError, match="2 of your images .*more/pot/a.png.*others/cup/0.png"): check_study(p)

def test_words_come_before_pictures(mine):
    (mine/'boot').rename(mine/'xylophone'); (mine/'xylophone'/'1.png').write_bytes(b'no picture')
    with pytest.raises(DreamError, match='does not know the word'): check_study(profile(mine))

def test_own_pictures_among_the_strangers_are_named(mine):
    p = profile(mine, data=strangers(mine))
    Image.open(mine/'boot'/'7.png').save(mine.parent/'others'/'cup'/'copy.tiff')
    with pytest.raises(DreamError, match="1 of your images stand in others, too .*cup/copy.tiff"): check_study(p)
    sets = {s: id_set(p.data, s) for s in SPLITS}
    assert leaks(sets|ood_sets(p.data)) == [(split_of(p)['boot/7.png'], 'others', 1)]

# -- copies -----------------------------------------------------------------------------------------------------------
def test_copies_stay_together_and_are_counted(mine, capsys):
    for i in range(20):
        x = Image.open(mine/'boot'/f'{i}.png')
        shutil.copy(mine/'boot'/f'{i}.png', mine/'boot'/f'{i} (2).png')
        x.save(mine/'boot'/f'{i}.webp', lossless=True); x.save(mine/'boot'/f'{i}.jpg', quality=80)
        x.resize((200, 166)).save(mine/'boot'/f'{i}_large.png')
    p = profile(mine)
    at = split_of(p)
    for i in range(20):
        assert len({at[f'boot/{i}{e}'] for e in ('.png', ' (2).png', '.webp', '.jpg', '_large.png')}) == 1
    assert len(at) == 200 and len({*at.values()}) == 3
    check_study(p)
    assert '80 copies of pictures within a class, each in one split with its like' in capsys.readouterr().out

def test_a_picture_of_two_classes_is_in_no_split_and_named(mine, capsys):
    for i in (3, 4): Image.open(mine/'boot'/f'{i}.png').save(mine/'coat'/f'twin{i}.bmp')
    Image.open(mine/'boot'/'9.png').save(mine/'coat'/'near.jpg', quality=80)
    p = profile(mine)
    check_study(p)
    said, at = capsys.readouterr().out, split_of(p)
    assert '2 pictures stand in two classes' in said and "'boot/3.png = coat/twin3.bmp'" in said
    assert '1 copy of pictures that are nearly the same in two classes' in said
    assert not {'boot/3.png', 'boot/4.png', 'coat/twin3.bmp', 'coat/twin4.bmp'} & {*at}
    assert len(at) == 119 and at['boot/9.png'] == at['coat/near.jpg']

def test_a_place_depends_on_the_picture_alone(mine):
    before = split_of(profile(mine))
    for i in range(10, 30): (mine/'boot'/f'{i}.png').rename(mine/'boot'/f'renamed{i}.png')
    drawn(555).save(mine/'boot'/'new.png'); shutil.copy(mine/'boot'/'6.png', mine/'boot'/'0000.png')
    larger = profile(mine, data=dict(image_size=40, greyscale=False))
    after = split_of(larger)
    for i in range(10, 30): assert after.pop(f'boot/renamed{i}.png') == before.pop(f'boot/{i}.png')
    assert after['boot/0000.png'] == before['boot/6.png']
    assert {k: after[k] for k in before} == before

def naive(tiny):
    x = tiny.float().flatten(2)
    own = (x-x.mean(2, keepdim=True)).abs().mean((1, 2))
    of = list(range(len(x)))
    for i in range(len(x)):
        for j in range(i):
            d = (x[i]-x[j]).abs()
            if min(own[i], own[j]) >= 1 and d.mean() < min(2, own[i]/10, own[j]/10) and d.max() <= 16:
                a, b = of[i], of[j]; of = [min(a, b) if k in (a, b) else k for k in of]
    return of

def test_near_copies_are_those_of_the_plain_way():
    g = torch.Generator().manual_seed(0)
    x = torch.nn.functional.interpolate(torch.rand(40, 3, 4, 4, generator=g)*255, size=16, mode='bilinear')
    near = [(x[k::2]+torch.randint(-k-1, k+2, x[k::2].shape, generator=g)) for k in (0, 1)]
    tiny = torch.cat([x, *near, x[:5]+30, 250+x[:9]/60]).clamp(0, 255).byte()
    assert near_copies(tiny, block=16).tolist() == near_copies(tiny).tolist() == naive(tiny)
    assert len({*naive(tiny)}) < len(tiny)-30

def test_a_nearly_blank_picture_swallows_no_other(mine):
    "Small things on white differ by less than two of 255, and pictures of nothing by less."
    for i in range(30):
        x = Image.new('RGB', (160, 160), 'white'); x.paste((200, 30, 30), (5*i, 70, 5*i+6, 76))
        x.save(mine/'boot'/f'w{i}.png')
        Image.new('RGB', (160, 160), (255-i//8, 255, 255)).save(mine/'coat'/f'w{i}.png')
    p = profile(mine)
    t = folder_index(mine, list_folder(mine).files, p.data).table
    white = t[t.file.str.contains('/w')]
    assert white[white.file.str.startswith('boot')].group.nunique() == 30
    assert white[white.file.str.startswith('coat')].group.nunique() == 4      # equal ones
    at = split_of(p)
    assert len({at[f] for f in white.file}) == 3

def test_pictures_that_are_all_alike_are_no_copies(mine):
    "One camera over one table."
    g, x = np.random.default_rng(1), np.asarray(drawn(1)).astype(int)
    for i in range(40):
        Image.fromarray((x+g.integers(-6, 7, x.shape)).clip(0, 255).astype(np.uint8)).save(mine/'boot'/f'{i}.png')
    at = split_of(profile(mine))
    assert {at[f'boot/{i}.png'] for i in range(40)} == {*SPLITS}

# -- read once --------------------------------------------------------------------------------------------------------
@pytest.fixture
def reads(monkeypatch):
    "The names of the files that are decoded."
    seen, real = [], data.picture
    monkeypatch.setattr(data, 'picture', lambda f, *a: seen.append(Path(f).name) or real(f, *a))
    return seen

def test_images_are_read_once(mine, reads):
    p = profile(mine, data=strangers(mine))
    check_study(p)
    assert len(reads) == 123; reads.clear()
    for s in SPLITS:
        ds = id_set(p.data, s)
        assert ds.pixels(32).shape[1:] == (3, 32, 32) and sum(len(y) for _, y in batches(ds, 8, eval_transform(p.data)))
        next(batches(ds, 8, train_transform(p.data), torch.Generator().manual_seed(0)))
    assert ood_sets(p.data)['others'].pixels(32).shape == (3, 3, 32, 32) and reads == []
    drawn(70).save(mine/'boot'/'70.png'); drawn(71).save(mine/'boot'/'0.png')
    assert len(split_of(p)) == 121 and sorted(reads) == ['0.png', '70.png']

@pytest.mark.parametrize('greyscale', [True, False])
def test_what_is_kept_is_what_files_give(mine, greyscale):
    drawn(1, (33, 200)).convert('RGBA').save(mine/'boot'/'0.png'); drawn(2, (32, 32)).save(mine/'boot'/'1.png')
    drawn(3, (20, 30)).save(mine/'boot'/'2.jpg'); drawn(3, (90, 70)).convert('P').save(mine/'boot'/'3.png')
    drawn(3, (90, 71)).convert('CMYK').save(mine/'boot'/'4.jpg')
    p = profile(mine, data=dict(greyscale=greyscale))
    for s in SPLITS:
        ds = id_set(p.data, s)
        plain = ImageSet('files', ds.images, ds.labels, ds.classes, greyscale=greyscale)
        assert ds.kept and ds.pixels(32).equal(plain.pixels(32)) and ds.at(0, 20).equal(plain.at(0, 20))
        some = [len(ds)-1, 0, 2]
        assert ds.subset(some).pixels(32).equal(plain.subset(some).pixels(32))
        for a, b in zip(*(batches(x, 7, eval_transform(p.data)) for x in (ds, plain))): assert a[0].equal(b[0])

@pytest.mark.parametrize('spoil', [lambda f: f.write_bytes(b'junk'), lambda f: f.unlink(),
                                   lambda f: f.write_bytes(f.read_bytes()[:f.stat().st_size//2])])
@pytest.mark.parametrize('which', ['npy', 'parquet'])
def test_what_is_kept_and_damaged_is_made_again(mine, cache, reads, spoil, which):
    p = profile(mine)
    before = id_set(p.data, 'train').pixels(32).clone()
    for f in cache.glob(f'*.{which}'): spoil(f)
    reads.clear()
    assert id_set(p.data, 'train').pixels(32).equal(before) and len(reads) == 120
    id_set(p.data, 'train')
    assert len(reads) == 120

@pytest.mark.parametrize('most', ['IN_MEMORY', 'ROOM'])
def test_without_room_for_it_all_goes_on(mine, cache, monkeypatch, most):
    p = profile(mine)
    before = {s: id_set(p.data, s).pixels(32) for s in SPLITS}
    shutil.rmtree(cache)
    if most == 'IN_MEMORY': cache.write_text('a file where the folder would be')
    else: monkeypatch.setattr(data, 'ROOM', 10)
    for m in (2**30, 10):
        monkeypatch.setattr(data, 'IN_MEMORY', m); data._UNWRITTEN.clear()
        assert all(id_set(p.data, s).pixels(32).equal(x) for s, x in before.items())

def test_a_folder_keeps_two_states_at_most(mine, cache):
    for i in range(4):
        drawn(300+i).save(mine/'boot'/f'more{i}.png'); id_set(profile(mine).data, 'train')
    assert len([*cache.glob('*.npy')]) == len([*cache.glob('*.parquet')]) == 2

def test_crops_are_cut_from_the_whole_picture(mine, reads):
    p = profile(mine, data=dict(augment='imagenet'))
    ds = id_set(p.data, 'train'); reads.clear()
    next(batches(ds, 8, train_transform(p.data), torch.Generator().manual_seed(0)))
    assert len(reads) == 8
