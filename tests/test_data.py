"Images: what is read, what is refused, and that batches are reproducible."
import numpy as np,pytest,torch
from pathlib import Path
from PIL import Image
from dream_ood.data import *
from dream_ood.stages import *
from dream_ood.core import DreamError
from dream_ood.settings import Source
from dream_ood.study import Profile,load_profile
from dream_ood.runs import Run

ROOT = Path(__file__).parent.parent

@pytest.fixture(scope='module')
def mini(): return load_profile(ROOT/'profiles'/'mini.yaml')

@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    for c in ('ant','bee'):
        (tmp_path/c).mkdir()
        for i in range(5): Image.fromarray(rng.integers(0,256,(40+i,50,3),dtype=np.uint8)).save(tmp_path/c/f'{i}.png')
    return tmp_path

def src(path, **kw): return Source(kind='folder', path=str(path), **kw)

def test_bundled_sets_have_the_stated_sizes(mini):
    train,val,test = (id_set(mini.data,s) for s in ('train','validation','test'))
    assert train.classes==mini.data.classes and len(train)>=1500*8
    assert val.labels.bincount().unique().numel()==1 and test.labels.bincount().unique().numel()==1
    for s in ood_sets(mini.data).values(): assert (s.labels==-1).all() and s[0][0].shape==(3,32,32)

def test_ood_sets_are_enough_and_grouped(mini):
    groups = [s.group for s in ood_sets(mini.data).values()]
    assert len(groups)-groups.count('sanity')>=6 and {'near','far','sanity'}==set(groups)

def test_no_image_stands_in_two_sets(mini):
    sets = ({s:id_set(mini.data,s) for s in ('train','validation','test')} | ood_sets(mini.data)
            | dict(wide=wide_set(mini.data), outliers=validation_outliers(mini.data)))
    assert leaks(sets)==[]

def test_wide_and_validation_outliers_share_no_noun_and_none_with_id_or_held_out(mini):
    wide,val = set(wide_set(mini.data).nouns),set(validation_outliers(mini.data).nouns)
    assert not wide&val and not (wide|val)&{*mini.data.classes,'sandal','bag'}

def test_folder_reads_resizes_and_limits(mini, folder):
    s = load_images('mine', src(folder), mini.data, ['bee','ant'])
    assert len(s)==10 and s.labels.tolist()==[1]*5+[0]*5 and s.pixels(32).shape==(10,3,32,32)
    assert len(load_images('mine', src(folder,per_class=2), mini.data, ['ant','bee']))==4
    a = load_images('mine', src(folder,per_class=2), mini.data, ['ant']).images
    b = load_images('mine', src(folder,exclude_first=2), mini.data, ['ant']).images
    assert len(b)==3 and not set(a)&set(b)

@pytest.mark.parametrize('spoil,words', [
    (lambda d: (d/'ant'/'0.png').write_bytes(b'no picture'), 'cannot be read'),
    (lambda d: (d/'ant'/'0.png').write_bytes((d/'ant'/'1.png').read_bytes()[:900]), 'cannot be read'),
])
def test_a_corrupt_image_is_one_sentence_that_names_it(mini, folder, spoil, words):
    spoil(folder)
    with pytest.raises(DreamError, match=words) as e: load_images('mine', src(folder), mini.data, ['ant']).pixels(32)
    assert '0.png' in str(e.value)

@pytest.mark.parametrize('suffix,top', [('png',65535), ('tiff',1.), ('tiff',65535)])
def test_pictures_of_more_than_eight_bits_keep_what_they_show(tmp_path, suffix, top):
    ramp = np.linspace(0,top,64)[None].repeat(64,0)
    Image.fromarray(ramp.astype(np.float32) if top==1. else ramp.round().astype(np.uint16)).save(tmp_path/f'a.{suffix}')
    x = read_image(tmp_path/f'a.{suffix}')
    assert x.shape==(3,64,64) and (x[0,0].float()-torch.linspace(0,255,64)).abs().max()<=1 and x[0].equal(x[2])

def test_a_folder_may_hold_links_to_folders(mini, folder, tmp_path):
    (tmp_path/'linked').mkdir(); (tmp_path/'linked'/'ant').symlink_to(folder/'ant', target_is_directory=True)
    assert len(load_images('mine', src(tmp_path/'linked'), mini.data, ['ant']))==5

def test_a_class_that_is_cut_away_whole_is_one_sentence(mini, folder):
    with pytest.raises(DreamError, match="'ant' has 5 images"):
        load_images('mine', src(folder,exclude_first=5), mini.data, ['ant'])

@pytest.mark.parametrize('word,known', [('Dogs','dog'), ('lawn_mower','lawn-mower'), ('Berries','berry'),
                                        ('boxes','box'), ('dress','dress'), ('bus','bus'), ('glasses','glass')])
def test_a_noun_is_known_in_other_letters_and_as_a_plural(word, known): assert bare(word)==bare(known)

def test_different_nouns_stay_different(mini):
    nouns = sorted({*wide_set(mini.data).nouns, *validation_outliers(mini.data).nouns, *mini.data.classes})
    assert ({n for n in nouns if bare(n)!=n and bare(n) in nouns}=={'books','masks','swords'}
            and len({bare(n) for n in nouns})==len(nouns)-3)

def test_images_in_memory_are_augmented_as_files_are(mini):
    p = mini.model_copy(update=dict(data=mini.data.model_copy(update=dict(augment='imagenet'))))
    some = id_set(p.data,'train').subset(range(8))
    a,b = (next(batches(some, 8, train_transform(p.data), torch.Generator().manual_seed(i)))[0] for i in (0,1))
    plain = next(batches(some, 8, eval_transform(p.data)))[0]
    for x in (a,b): assert not any(x_.equal(y) for x_ in x for y in plain)
    assert (not a.equal(b)
            and a.equal(next(batches(some, 8, train_transform(p.data), torch.Generator().manual_seed(0)))[0]))

def test_an_order_is_read_without_a_copy_and_as_a_subset_is(mini):
    ds,order,g = id_set(mini.data,'train'),torch.tensor([3,3,0,7,1,1,1,9]),lambda: torch.Generator().manual_seed(5)
    for a,b in zip(batches(ds, 4, train_transform(mini.data), g(), order=order),
                   batches(ds.subset(order), 4, train_transform(mini.data), g())):
        assert a[0].equal(b[0]) and a[1].equal(b[1])

def test_copies_that_a_published_set_brings_along_are_left_in(mini, tmp_path, capsys, monkeypatch):
    x,few = torch.randint(0,256,(400,1,32,32),dtype=torch.uint8),dict.fromkeys(('wide','validation_outliers'))
    def sets(twice):
        return {'train':x, 'validation':torch.randint(0,256,(400,1,32,32),dtype=torch.uint8),
                'test':torch.cat([x[:twice],torch.randint(0,256,(400-twice,1,32,32),dtype=torch.uint8)])}
    p = mini.model_copy(update=dict(data=mini.data.model_copy(update=few|dict(ood={}))))
    for twice,error in ((3,False),(8,True)):
        have = sets(twice)
        monkeypatch.setattr('dream_ood.stages.id_set', lambda d,
                            s: ImageSet(f'ID {s}', have[s], torch.arange(400)%8, d.classes))
        run = Run.open(p, twice, tmp_path)
        if error:
            with pytest.raises(DreamError, match='share images'): run_data(run)
        else:
            run_data(run)
            assert ('ID test: 3 of its images stand in ID train, too' in capsys.readouterr().out
                    and run.stage('data').done)

def test_what_is_missing_is_one_sentence(mini, folder, tmp_path):
    with pytest.raises(DreamError, match='wasp'): load_images('mine', src(folder), mini.data, ['ant','wasp'])
    with pytest.raises(DreamError, match='no image folder'): load_images('mine', src(folder/'none'), mini.data)
    (tmp_path/'empty').mkdir()
    with pytest.raises(DreamError, match='empty'): load_images('mine', src(tmp_path/'empty'), mini.data)
    with pytest.raises(DreamError, match='no bundled sheets'):
        load_images('mine', Source(kind='sheets',path='none'), mini.data)
    with pytest.raises(DreamError, match='CIFAR100'):
        load_images('mine', Source(kind='cifar100',path=str(tmp_path)), mini.data)

def test_a_damaged_sheet_is_one_sentence(mini, monkeypatch):
    import dream_ood.data as data
    path = next(iter(data._index()))
    monkeypatch.setattr(data, '_index', lambda: {path: dict(tiles='1', tile_size='28', sha256='0')})
    with pytest.raises(DreamError, match='damaged'): read_sheet(path)

def test_batches_do_not_depend_on_workers(mini, folder):
    from dream_ood.data import Transform
    s,t = load_images('mine', src(folder), mini.data, ['ant','bee']),Transform(mini.data,'imagenet')
    a,b = (torch.cat([x for x,_ in batches(s, 4, t, torch.Generator().manual_seed(1), workers=w)]) for w in (0,2))
    assert a.equal(b)

def test_in_order_batches_cover_everything_once(mini):
    s = id_set(mini.data,'validation')
    y = torch.cat([y for _,y in batches(s, 77, eval_transform(mini.data))])
    assert y.equal(s.labels)

def test_shift_flip_moves_without_changing_content():
    x = torch.zeros(64,1,9,9,dtype=torch.uint8); x[:,:,4,4] = 200
    y = shift_flip(x, 2, torch.Generator().manual_seed(0))
    assert (y.flatten(1).sum(1)==200).all() and y.shape==x.shape
    at = y[:,0].nonzero()[:,1:]
    assert at.min()==2 and at.max()==6

def test_full_fashion_mnist_matches_the_bundled_part(mini):
    root = Path('/usr/share/datasets/fashion-mnist')
    if not root.exists(): pytest.skip('Debian package dataset-fashion-mnist is not installed')
    full = load_images('full', Source(kind='fashion_mnist',split='test',select=['coat']), mini.data, ['coat'])
    assert {bytes(i.numpy().tobytes()) for i in full.images} >= {bytes(i.numpy().tobytes())
        for i in load_images('part', Source(kind='sheets',path='fashion/test',select=['coat']), mini.data,
                             ['coat']).images}

X = torch.zeros(4,3,8,8,dtype=torch.uint8)
@pytest.mark.parametrize('images,labels,words', [
    (X.float()/255,None,'float32.*uint8, from 0'),(X[:,0],None,'a channel'),
    (X.permute(0,2,3,1),None,'forward'),(X[:,:2],None,'1 or 3'),(X[:0],None,'empty'),([],None,'empty'),
    (X,[0,1,0],'4 images and labels'),(X,[0,1,2,0],'labels from 0 to 2, and 2 classes'),(X,[0,1,-2,0],'from -2')])
def test_images_and_labels_that_do_not_fit_are_one_sentence(images, labels, words):
    with pytest.raises(DreamError, match=words) as e: ImageSet('mine', images, labels, ['a','b'])
    assert '\n' not in str(e.value)
    if torch.is_tensor(images):
        with pytest.raises(DreamError, match=words): ImageSet('mine', images.numpy(), labels, ['a','b'])

def test_an_array_is_as_good_as_a_tensor():
    ds = ImageSet('mine', X.numpy(), np.array([0,1,-1,0]), ['a','b'])
    assert torch.equal(ds[3][0],X[3]) and ds.labels.tolist()==[0,1,-1,0]
