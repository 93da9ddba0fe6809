"""Benchmarks in their real layouts on disk: small folders as the archives and torchvision leave them, read by the
shipped profiles' own entries."""
import pickle,struct
import numpy as np,pytest,scipy.io,torch
from pathlib import Path
from PIL import Image
import dream_ood.data as data
from dream_ood.data import *
from dream_ood.stages import *
from dream_ood.evaluation import ood_metrics
from dream_ood.detectors import Outputs,right
from dream_ood.core import DreamError,save_tensors
from dream_ood.settings import OODSource,Source
from dream_ood.study import Profile,load_profile
from dream_ood.runs import Run
from dream_ood.stages import classifier_of,fresh

ROOT = Path(__file__).parent.parent
MINI = load_profile(ROOT/'profiles'/'mini.yaml')
RNG = np.random.default_rng(0)

def pixels(n, size=32, channels=3): return RNG.integers(0, 256, (n,size,size,channels), dtype=np.uint8)

def draw(path, value, size=(40,50)):
    "A file of one colour, by which it is known again."
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new('RGB', size, (value,)*3).save(path,
                                            **(dict(quality=95) if path.suffix.lower() in ('.jpg','.jpeg') else {}))

def colours(s): return [int(x.float().mean().round()) for x,_ in s]

@pytest.fixture
def colour(): return Profile(**(MINI.model_dump() | dict(data=MINI.data.model_dump() | dict(greyscale=False))))

@pytest.fixture
def unchecked(monkeypatch):
    """torchvision's checksums are of the real files; these are small ones in their place, so that only their
    presence is checked."""
    import torchvision.datasets as tv
    for m in (tv.cifar, tv.svhn, tv.places365):
        monkeypatch.setattr(m, 'check_integrity', lambda f, md5=None: Path(f).is_file())

# -- torchvision's datasets -------------------------------------------------------------------------------------------
def cifar(root, kind):
    folder,parts,names,key = {'cifar10':('cifar-10-batches-py', [f'data_batch_{i}' for i in range(1,6)]+['test_batch'],
                                         ['airplane','automobile','bird'], 'labels'),
                              'cifar100':('cifar-100-python', ['train','test'], ['apple','aquarium_fish','baby'],
                                          'fine_labels')}[kind]
    (root/folder).mkdir(parents=True)
    x = pixels(6)
    for p in parts:
        (root/folder/p).write_bytes(pickle.dumps({'data':x.transpose(0,3,1,2).reshape(6,-1), key:[0,1,2,0,1,2]}))
    meta,names_key = (('batches.meta','label_names') if kind=='cifar10' else ('meta','fine_label_names'))
    (root/folder/meta).write_bytes(pickle.dumps({names_key:names}))
    return x,names

@pytest.mark.parametrize('kind,batches_of_train', [('cifar10',5),('cifar100',1)])
def test_cifar(kind, batches_of_train, tmp_path, unchecked, colour):
    x,names = cifar(tmp_path, kind)
    s = load_images('c', Source(kind=kind, path=str(tmp_path), split='test'), colour.data, names)
    assert s.labels.tolist()==[0,1,2,0,1,2] and s.images.equal(torch.from_numpy(x).permute(0,3,1,2))
    assert len(load_images('c', Source(kind=kind, path=str(tmp_path), split='all'),
                           colour.data))==6*(batches_of_train+1)
    assert load_images('c', Source(kind=kind, path=str(tmp_path), split='train', select=[names[1]]),
                       colour.data).nouns==[names[1]]*2*batches_of_train

def test_svhn(tmp_path, unchecked, colour):
    x = pixels(5)
    scipy.io.savemat(tmp_path/'test_32x32.mat',
                     dict(X=x.transpose(1,2,3,0), y=np.array([[1],[9],[10],[10],[3]],np.uint8)))
    s = load_images('svhn', Source(kind='svhn', path=str(tmp_path), split='test'), colour.data)
    assert s.images.equal(torch.from_numpy(x).permute(0,3,1,2)) and (s.labels==-1).all()
    assert s.nouns==['1','9','0','0','3']                          # 10 stands for the digit 0 in the file
    with pytest.raises(DreamError, match="no split 'val'"):
        load_images('svhn', Source(kind='svhn', path=str(tmp_path), split='val'), colour.data)

def test_mnist(tmp_path):
    raw = tmp_path/'MNIST'/'raw'; raw.mkdir(parents=True)
    x = {p:pixels(4,28,1)[...,0] for p in ('train','t10k')}
    for p,a in x.items():
        (raw/f'{p}-images-idx3-ubyte').write_bytes(struct.pack('>IIII',0x803,4,28,28)+a.tobytes())
        (raw/f'{p}-labels-idx1-ubyte').write_bytes(struct.pack('>II',0x801,4)+bytes([7,2,1,0]))
    s = load_images('mnist', Source(kind='mnist', path=str(tmp_path), split='test'), MINI.data, list('0127'))
    assert (s.labels.tolist()==[3,2,1,0] and s.images[:,:,2:-2,2:-2].equal(torch.from_numpy(x['t10k'])[:,None])
            and s[0][0].shape==(3,32,32))
    assert len(load_images('mnist', Source(kind='mnist', path=str(tmp_path), split='all'), MINI.data))==8

def dtd(root):
    at = root/'dtd'/'dtd'
    for split,v in (('train',10),('val',20),('test',30)):
        for i,c in enumerate(('banded','blotchy')): draw(at/'images'/c/f'{c}_{v}.jpg', v+i)
        (at/'labels').mkdir(exist_ok=True)
        (at/'labels'/f'{split}1.txt').write_text(''.join(f'{c}/{c}_{v}.jpg\n' for c in ('banded','blotchy')))
    (at/'images'/'banded'/'.directory').write_text('[Dolphin]')    # is in the archive

def test_dtd(tmp_path, colour):
    dtd(tmp_path)
    def of(split, **kw):
        return load_images('textures', Source(kind='dtd', path=str(tmp_path), split=split, **kw), colour.data)
    assert (colours(of('val'))==[20,21] and of('val').nouns==['banded','blotchy']
            and sorted(colours(of('all')))==[10,11,20,21,30,31])
    assert len(load_images('textures', Source(kind='folder', path=str(tmp_path/'dtd'/'dtd'/'images')), colour.data))==6
    (tmp_path/'dtd'/'dtd'/'images'/'banded'/'banded_20.jpg').unlink()
    with pytest.raises(DreamError, match='banded_20.jpg.* is listed, but is not there'): of('val')

def places(root, size='256'):
    root.mkdir(parents=True, exist_ok=True)
    (root/'categories_places365.txt').write_text('/a/airfield 0\n/a/alcove 1\n')
    (root/'places365_val.txt').write_text('Places365_val_00000001.jpg 1\nPlaces365_val_00000002.jpg 0\n')
    (root/'places365_test.txt').write_text(''.join(f'Places365_test_{i:08d}.jpg\n' for i in (1,2,3)))
    (root/'places365_train_standard.txt').write_text('/a/airfield/00000001.jpg 0\n')
    for i in (1,2): draw(root/f'val_{size}'/f'Places365_val_{i:08d}.jpg', 50+i)
    for i in (1,2,3): draw(root/f'test_{size}'/f'Places365_test_{i:08d}.jpg', 60+i)
    draw(root/f'data_{size}_standard'/'a'/'airfield'/'00000001.jpg', 70)

@pytest.mark.parametrize('size', ['256','large'])
def test_places365(size, tmp_path, unchecked, colour):
    places(tmp_path, size)
    def of(split, **kw):
        return load_images('places', Source(kind='places365', path=str(tmp_path), split=split, **kw), colour.data)
    assert (colours(of('val'))==[51,52] and of('val').nouns==['a/alcove','a/airfield']
            and colours(of('test'))==[61,62,63] and colours(of('train'))==[70])
    assert colours(of('test', per_class=2))==[61,62]

def test_places365_without_its_images(tmp_path, unchecked, colour):
    places(tmp_path)
    for f in (tmp_path/'val_256').iterdir(): f.unlink()
    (tmp_path/'val_256').rmdir()
    with pytest.raises(DreamError, match='not its images'):
        load_images('places', Source(kind='places365', path=str(tmp_path), split='val'), colour.data)

def test_a_file_that_is_not_the_real_one_is_refused(tmp_path, colour):
    cifar(tmp_path, 'cifar10')                                      # torchvision's checksums in place
    with pytest.raises(DreamError, match='CIFAR10 is not in .*corrupted.*download=True'):
        load_images('c', Source(kind='cifar10', path=str(tmp_path)), colour.data)

def test_nothing_is_fetched_unless_asked(tmp_path, colour, monkeypatch):
    asked = []
    def fake(self, *a, **kw): asked.append(kw['download']); raise RuntimeError('Dataset not found')
    monkeypatch.setattr(data.datasets.SVHN, '__init__', fake)
    for download in (None,False,True):
        with pytest.raises(DreamError):
            load_images('svhn', Source(kind='svhn', path=str(tmp_path), split='test', download=download), colour.data)
    assert asked==[False,False,True]

# -- OpenOOD's lists, and plain folders -------------------------------------------------------------------------------
@pytest.fixture
def listed(tmp_path):
    for i,f in enumerate(('cifar100/train/apple/1.png','cifar100/train/baby/2.png',
                          'tin/val/n01443537/images/3 a.JPEG')):
        draw(tmp_path/'images_classic'/f, 10*i)
    (tmp_path/'train.txt').write_text('cifar100/train/apple/1.png 0\n\ncifar100/train/baby/2.png 2\n')
    (tmp_path/'near.txt').write_text('tin/val/n01443537/images/3 a.JPEG -1\n')
    return tmp_path

def imglist(folder, name, **kw):
    return Source(kind='imglist', path=str(folder/'images_classic'), list=str(folder/name), **kw)

def test_imglist(listed, colour):
    classes = ['apple','aquarium_fish','baby']
    with pytest.raises(DreamError, match='aquarium_fish'):
        load_images('train', imglist(listed,'train.txt'), colour.data, classes)
    s = load_images('train', imglist(listed,'train.txt',select=['apple','baby']), colour.data, classes)
    assert s.labels.tolist()==[0,2] and colours(s)==[0,10] and s.pixels(32).shape==(2,3,32,32)
    near = load_images('near', imglist(listed,'near.txt'), colour.data, group='near')
    assert near.labels.tolist()==[-1] and colours(near)==[20] and near.group=='near'

@pytest.mark.parametrize('text,words', [
    ('cifar100/train/apple/1.png 0\ncifar100/train/baby/2.png 3\n', ('line 2','label 3','3 classes','0 to 2')),
    ('cifar100/train/apple/1.png -1\n', ('line 1','label -1')),
    ('cifar100/train/apple/1.png\n', ('line 1','path of an image and its label')),
    ('cifar100/train/apple/9.png 0\n', ('9.png','listed, but is not there','Zhang')),
    ('\n', ('is empty',)),
])
def test_what_a_list_gets_wrong_is_one_sentence(listed, colour, text, words):
    (listed/'bad.txt').write_text(text)
    with pytest.raises(DreamError) as e:
        load_images('train', imglist(listed,'bad.txt',select=['apple'],origin='the archive of Zhang et al.'),
                    colour.data, ['apple','aquarium_fish','baby'])
    assert all(w in str(e.value) for w in words) and str(e.value).startswith('train: ') and '\n' not in str(e.value)

def test_a_part_of_imagenet_is_read_where_all_of_it_lies(tmp_path, colour):
    for c in ('n01440764','n01498041','n02123045'):
        for i in range(3): draw(tmp_path/'train'/c/f'{c}_{i}.JPEG', 100+i)
    s = load_images('ID train', Source(kind='folder', path=str(tmp_path/'train'), per_class=2), colour.data,
                    ['n02123045','n01498041'])
    assert s.labels.tolist()==[1,1,0,0] and {f.parent.name for f in s.images}=={'n01498041','n02123045'}

@pytest.mark.parametrize('path,name', [('LSUN/test','1.jpg'), ('iSUN/iSUN_patches','1.jpeg'),
                                       ('iNaturalist/images','1.jpg'), ('SUN/images','s.jpg'),
                                       ('Places/images','p.jpg')])
def test_archives_of_images_without_classes(path, name, tmp_path, colour):
    draw(tmp_path/path/name, 7); draw(tmp_path/path/'other'/f'x{name}', 8)
    (tmp_path/path/f'._{name}').write_bytes(b'what macOS leaves in archives')
    s = load_images('ood', Source(kind='folder', path=str(tmp_path/path)), colour.data)
    assert sorted(colours(s))==[7,8] and (s.labels==-1).all()

# -- the shipped profiles ---------------------------------------------------------------------------------------------
BENCHMARKS = dict(cifar100={'svhn','places365','lsun','isun','textures'},
                  imagenet100={'inaturalist','sun','places','textures'},
                  openood_cifar100={'cifar10','tin','mnist','svhn','texture','places365'},
                  openood_imagenet200={'ssb_hard','ninco','inaturalist','textures','openimage_o'})
NEAR = dict(openood_cifar100={'cifar10','tin'}, openood_imagenet200={'ssb_hard','ninco'})

@pytest.fixture(params=BENCHMARKS)
def shipped(request, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path); (tmp_path/'settings.ini').touch()   # so that _data is a folder of the test
    return load_profile(ROOT/'profiles'/f'{request.param}.yaml')

def test_every_missing_set_is_one_sentence_with_its_origin_and_place(shipped):
    assert set(shipped.data.ood)==BENCHMARKS[shipped.name]
    for n,src in shipped.data.ood.items():
        with pytest.raises(DreamError) as e: load_images(n, src, shipped.data)
        said = str(e.value)
        assert (said.startswith(f'{n}: ') and src.origin in said and '_data' in said and '\n' not in said
                and said.endswith('.')), said
    for split in ('train','validation','test'):
        with pytest.raises(DreamError, match=f'ID {split}: .*_data.*get it from'): id_set(shipped.data, split)

def fill(p):
    "One or two images for every entry of a profile, where its layout has them."
    splits = {k:getattr(p.data,k) for k in ('train','validation','test')}
    splits |= {n:s for n,s in (p.dream_id.shift_sets or {}).items() if s.kind=='imglist'}
    for n,s in {**p.data.ood, 'outliers':p.data.validation_outliers, **splits}.items():
        root,own = Path(s.path or '_data') if s else None,n in splits
        match s and s.kind:
            case 'folder':
                for c in p.data.classes if own else ['']:
                    for i in range(22 if n=='train' else 1): draw(root/c/f'{i:02d}.JPEG', i)
            case 'svhn':
                scipy.io.savemat(root/'test_32x32.mat', dict(X=pixels(2).transpose(1,2,3,0), y=np.ones((2,1),np.uint8)))
            case 'places365': places(root)
            case 'dtd': dtd(root)
            case 'cifar100' if not (root/'cifar-100-python').exists():
                at = root/'cifar-100-python'; at.mkdir()
                for part,k in (('train',22),('test',1)):
                    y = list(range(100))*k
                    (at/part).write_bytes(pickle.dumps(dict(data=np.zeros((len(y),3072),np.uint8), fine_labels=y)))
                (at/'meta').write_bytes(pickle.dumps(dict(fine_label_names=p.data.classes)))
            case 'imglist':
                names = [f'{n}/{i}.png' for i in range(len(p.data.classes) if own else 2)]
                for f in names: draw(root/f, 9, (8,8))
                Path(s.list).parent.mkdir(parents=True, exist_ok=True)
                Path(s.list).write_text(''.join(f'{f} {i if own else -1}\n' for i,f in enumerate(names)))

def test_every_set_is_read_from_its_real_layout(shipped, unchecked):
    Path('_data').mkdir()
    fill(shipped)
    for s in ood_sets(shipped.data).values():
        assert (len(s)>=1 and s.pixels(shipped.data.image_size).shape[1:]==(3,shipped.data.image_size,
            shipped.data.image_size))
    C = len(shipped.data.classes)
    for split in ('train','validation','test'): assert id_set(shipped.data,split).labels.unique().numel()==C
    train,val = (id_set(shipped.data,s) for s in ('train','validation'))
    if not torch.is_tensor(train.images): assert not set(train.images)&set(val.images)
    near = {n for n,s in ood_sets(shipped.data).items() if s.group=='near'}
    assert near==NEAR.get(shipped.name, set())
    if shipped.name.startswith('openood'): assert len(validation_outliers(shipped.data))==2

def test_classes_of_imagenet200_are_those_of_imagenet_r_in_the_order_of_its_lists():
    import timm.data
    p = load_profile(ROOT/'profiles'/'openood_imagenet200.yaml')
    order = (Path(timm.data.__file__).parent/'_info'/'imagenet_r_synsets.txt').read_text().split()
    nouns = [p.data.noun(c) for c in p.data.classes]
    assert p.data.classes==order==sorted(order) and len(order)==200 and set(p.data.nouns)==set(order)
    assert len({bare(n) for n in nouns})==200 and not any(n[0]=='n' and n[1:].isdigit() for n in nouns)
    others = (ROOT/p.foundation.nouns).read_text().splitlines()[1:]
    assert len(set(others))==len(others)==800 and not {bare(n) for n in nouns}&{bare(n) for n in others}

def test_covariate_shifts_of_imagenet200_are_its_classes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path); (tmp_path/'settings.ini').touch()
    p = load_profile(ROOT/'profiles'/'openood_imagenet200.yaml')
    Path('_data').mkdir(); fill(p)
    shifts = shift_sets(p.dream_id.shift_sets, p.data)
    assert set(shifts)=={'imagenet_v2','imagenet_c','imagenet_r'}
    for s in shifts.values(): assert s.labels.tolist()==[*range(200)] and list(s.classes)==p.data.classes

# -- what users get wrong ---------------------------------------------------------------------------------------------
def test_an_entry_that_lacks_a_key_is_one_sentence(tmp_path):
    import yaml
    d = yaml.safe_load((ROOT/'profiles'/'mini.yaml').read_text())
    for entry,words in ((dict(kind='folder',group='far'),'kind folder needs a path'),
                        (dict(kind='imglist',group='far',path='x'),'kind imglist needs a list')):
        d['data']['ood']['mine'] = entry
        (tmp_path/'mine.yaml').write_text(yaml.safe_dump(d))
        with pytest.raises(DreamError, match=f'data.ood.mine: {words}'): load_profile(tmp_path/'mine.yaml')

def test_one_image_is_a_set_that_can_be_measured_and_is_remarked_on(tmp_path, capsys):
    draw(tmp_path/'lone'/'a.png', 200)
    d = MINI.model_dump(); d['data']['ood'] = dict(lone=dict(kind='folder',path=str(tmp_path/'lone'),group='far'))
    run = Run.open(Profile(**d), 0, tmp_path/'runs')
    run_data(run)
    assert run.stage('data').done and capsys.readouterr().out.count('lone: the OOD set holds one image')==1
    assert ood_metrics([.1,.9,.8],[.2])['auroc']==pytest.approx(2/3)

@pytest.mark.parametrize('classes', [None,['ant']])
def test_an_empty_folder_is_one_sentence(tmp_path, colour, classes):
    (tmp_path/'none').mkdir()
    with pytest.raises(DreamError, match='mine: the image folder .* is empty: get it from a friend, and put it there'):
        load_images('mine', Source(kind='folder', path=str(tmp_path/'none'), origin='a friend.'), colour.data, classes)

@pytest.mark.parametrize('workers', [0,2])
def test_a_broken_image_is_one_sentence_whoever_reads_it(tmp_path, colour, workers):
    for i in range(4): draw(tmp_path/'x'/f'{i}.png', i)
    (tmp_path/'x'/'2.png').write_bytes((tmp_path/'x'/'2.png').read_bytes()[:60])
    s = load_images('mine', Source(kind='folder', path=str(tmp_path)), colour.data)
    with pytest.raises(DreamError) as e: list(batches(s, 2, eval_transform(colour.data), workers=workers))
    assert '2.png' in str(e.value) and 'cannot be read' in str(e.value) and '\n' not in str(e.value)

def test_a_network_with_the_wrong_number_of_classes_is_one_sentence(tmp_path):
    with pytest.raises(DreamError, match='The classifier has 10 outputs for 8 classes'):
        right(Outputs(torch.zeros(2,10),torch.zeros(2,4),torch.zeros(2).long()), 8)
    with pytest.raises(DreamError, match='Labels reach from 0 to 8'):
        right(Outputs(torch.zeros(2,8),torch.zeros(2,4),torch.tensor([0,8])), 8)
    d = MINI.model_dump(); d['data']['classes'] = d['data']['classes'][:-1]
    run,fewer = Run(MINI, 0, tmp_path),Run(Profile(**d), 0, tmp_path)
    save_tensors(run.stage('training')/'cross_entropy.safetensors',
                 **{f'net.{k}':v for k,v in fresh(fewer).state_dict().items()})
    assert classifier_of(fewer, 'cross_entropy', run.stage('training'))
    with pytest.raises(DreamError, match='not a classifier of this profile .*number of classes') as e:
        classifier_of(run, 'cross_entropy', run.stage('training'))
    assert '\n' not in str(e.value)

def test_a_file_in_two_sets_is_a_leak(listed, tmp_path, colour):
    a,b = imglist(listed,'near.txt'),Source(kind='folder', path=str(listed/'images_classic'))
    assert leaks({'near':load_images('near',a,colour.data), 'all':load_images('all',b,colour.data)})==[('near','all',1)]
