"""The vision-language references against their formulas, written out in NumPy, on a tiny CLIP with random weights and
on made-up embeddings."""
import numpy as np,pandas as pd,pytest,torch
import torch.nn.functional as F
from PIL import Image
from scipy import special
from dream_ood.core import DreamError
from dream_ood.data import ImageSet
from dream_ood.evaluation import COLUMNS
from dream_ood.vlm import *

NAMES = ['coat','boot','cat']
T = .01

def unit(*shape, seed=0): return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=1)

def pictures(n, seed=0, name='ID', classes=NAMES):
    g = torch.Generator().manual_seed(seed)
    y = torch.arange(n)%len(classes) if classes else None
    return ImageSet(name, torch.randint(256, (n,3,28,28), generator=g, dtype=torch.uint8), y, classes, group='near')

@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    at = tmp_path_factory.mktemp('clip')
    clip = tiny_clip(1)
    clip.model.save_pretrained(at); clip.processor.save_pretrained(at)
    return at

@pytest.fixture(scope='module')
def clip(folder): return load_clip(str(folder), 'cpu')

@pytest.fixture(scope='module')
def case():
    "Images near classes, and others near negative labels."
    e,n = unit(3,8),unit(12,8,seed=1)
    at = torch.cat([e[torch.arange(20)%3],n[torch.arange(20)%12]])
    return F.normalize(at+.25*torch.randn(40,8,generator=torch.Generator().manual_seed(2)), dim=1),e,n

# a CLIP from a folder

def test_a_saved_clip_says_the_same(clip):
    before = tiny_clip(1)
    assert torch.equal(text_embeddings(clip, NAMES), text_embeddings(before, NAMES))
    assert torch.equal(image_embeddings(clip, pictures(5)), image_embeddings(before, pictures(5)))
    assert not any(p.requires_grad for p in clip.model.parameters()) and not clip.model.training

def test_what_is_no_clip_is_refused_in_a_sentence(tmp_path):
    with pytest.raises(DreamError, match='there is no folder'): load_clip(str(tmp_path/'nowhere'))
    with pytest.raises(DreamError, match='there is no folder'): load_clip('')
    with pytest.raises(DreamError, match='holds no CLIP'): load_clip(str(tmp_path))
    (tmp_path/'config.json').write_text('{"model_type":"bert"}')
    with pytest.raises(DreamError, match="'bert'"): load_clip(str(tmp_path))
    (tmp_path/'config.json').write_text('{"model_type":"clip"}')
    with pytest.raises(DreamError, match='could not be loaded'): load_clip(str(tmp_path))

def test_the_tiny_one_knows_its_words_and_is_the_same_each_time():
    a,b = tiny_clip(1),tiny_clip(1)
    assert a.processor.tokenizer.get_vocab()==b.processor.tokenizer.get_vocab()
    assert torch.equal(text_embeddings(a, NAMES), text_embeddings(b, NAMES))
    assert not torch.equal(text_embeddings(a, NAMES), text_embeddings(tiny_clip(2), NAMES))
    tok = a.processor.tokenizer
    assert tok.tokenize('A nice TSHIRT') == ['a</w>','nice</w>','tshirt</w>'] and len(tok.tokenize('zebra'))>1

# embeddings

def test_embeddings_are_those_of_one_at_a_time(clip):
    ds,nouns = pictures(7),['coat','cat','a ship and a tree','dog']
    x,t = image_embeddings(clip, ds, 3),text_embeddings(clip, nouns, batch_size=2)
    assert x.dtype==t.dtype==torch.float32 and x.norm(dim=1).allclose(torch.ones(7)) and t.shape==(4,16)
    for i in range(7): assert torch.allclose(image_embeddings(clip, ds.subset([i]))[0], x[i], atol=1e-5)
    for i,n in enumerate(nouns): assert torch.allclose(text_embeddings(clip, [n])[0], t[i], atol=1e-5)
    assert (x[0]-x[1]).abs().max()>1e-3 and (t[0]-t[1]).abs().max()>1e-3

def test_images_of_any_size_are_read_from_files(clip, tmp_path):
    g = np.random.default_rng(0)
    for i,s in enumerate([(40,50),(64,64),(33,90)]):
        Image.fromarray(g.integers(0,256,(*s,3),dtype=np.uint8)).save(tmp_path/f'{i}.png')
    files = sorted(tmp_path.glob('*.png'))
    x = image_embeddings(clip, ImageSet('files', files), 3)
    one = clip.processor.image_processor(images=Image.open(files[2]), return_tensors='pt')
    want = F.normalize(clip.model.get_image_features(**one).pooler_output, dim=1)[0]
    assert x.shape==(3,16) and torch.allclose(x[2], want, atol=1e-4)

def test_a_prompt_has_one_place(clip):
    a,b = (text_embeddings(clip, ['polar_bear','cat'], p) for p in ('a picture of a {}','{}'))
    assert not torch.allclose(a, b)
    for p in ('a photo','{} and {}'):
        with pytest.raises(DreamError, match='exactly one'): text_embeddings(clip, NAMES, p)
    with pytest.raises(DreamError, match='no names'): text_embeddings(clip, [])

# MCM

def test_mcm_is_the_largest_softmax(case):
    x,e,_ = case
    for t in (1.,.1):
        want = special.softmax(x.double().numpy()@e.double().numpy().T/t, axis=1).max(1)
        got = mcm(x, e, t)
        assert got.dtype==np.float64 and got.shape==(40,) and np.allclose(got, want, rtol=1e-12)
    assert mcm(x, e)[:20].mean()>mcm(x, e)[20:].mean()

# NegLabel

def test_negative_labels_are_the_farthest_by_the_quantile_of_distances():
    e,w = unit(30,8),unit(2500,8,seed=3)         # more nouns than are compared at once
    d = np.quantile(-(w.double().numpy()@e.double().numpy().T), .05, axis=1)
    kept = negative_labels(w, e, share=.1)
    assert len(kept)==250 and d[kept].min()>=np.delete(d, kept).max()
    assert (np.diff(d[kept])<=1e-12).all()       # the farthest first
    by_nearest = negative_labels(w, e, share=.1, quantile=0.)
    assert set(by_nearest.tolist())!=set(kept.tolist())
    with pytest.raises(DreamError, match='no negative label'): negative_labels(w, e, share=1e-5)

def test_neglabel_is_the_share_of_the_softmax_in_each_group(case):
    x,e,n = case
    got = neglabel(x, e, n, groups=5, seed=4)
    l,m = (x.double().numpy()@z.double().numpy().T/T for z in (e,n))
    parts = parted(12, 5, 4)
    assert sorted(i for p in parts for i in p.tolist())==list(range(12)) and {len(p) for p in parts}=={2,3}
    want = np.mean([special.softmax(np.c_[l,m[:,p.numpy()]], axis=1)[:,:3].sum(1) for p in parts], axis=0)
    assert got.dtype==np.float64 and np.allclose(got, want, atol=1e-12)
    whole = special.softmax(np.c_[l,m], axis=1)[:,:3].sum(1)
    assert np.allclose(neglabel(x, e, n, groups=1), whole, atol=1e-12)
    assert got[:20].min()>got[20:].max()

def test_groups_depend_on_the_seed_alone(case):
    x,e,n = case
    assert np.array_equal(neglabel(x, e, n, 4, seed=1), neglabel(x, e, n, 4, seed=1))
    assert not np.array_equal(neglabel(x, e, n, 4, .1, seed=1), neglabel(x, e, n, 4, .1, seed=2))
    assert np.allclose(neglabel(x, e, n, 4)[7:9], neglabel(x[7:9], e, n, 4), atol=1e-12)   # of images by themselves
    assert len(parted(3, 100))==3

def test_nouns_of_the_id_classes_are_no_negative_labels(tmp_path):
    every,less = corpus_nouns(),corpus_nouns(['Trousers','tshirt'])
    assert len(every)>4000 and len(set(every))==len(every)
    assert {'trouser','pant','tshirt','jersey'} & set(every) and not {'trouser','pant','tshirt','jersey'} & set(less)
    (tmp_path/'mine.csv').write_text('noun\nnull\ncat\nCats\ndog\ndog\n')
    assert corpus_nouns(['cat'], tmp_path/'mine.csv')==['null','dog']
    (tmp_path/'other.csv').write_text('word\ncat\n')
    with pytest.raises(DreamError, match='no column'): corpus_nouns(path=tmp_path/'other.csv')

# AdaNeg

def plainly(x, e, n, order, length, middle, gap, weight, beta, groups, seed):
    "AdaNeg with lists and loops; also how often an image was kept."
    x,labels,C = x.double().numpy(),np.r_[e.double().numpy(),n.double().numpy()],len(e)
    parts,memory,out,kept = [p.numpy() for p in parted(len(n), groups, seed)],[[] for _ in labels],np.zeros(len(x)),0
    def share(z):
        l = z/T
        return np.mean([special.softmax(np.r_[l[:C],l[C:][p]])[:C].sum() for p in parts])
    def proxy(k, h):
        those = [labels[k]]+[m for _,m in memory[k]]
        p = sum(m*(1 if beta is None else np.exp(-beta*(1-h@m))) for m in those)
        return p/np.linalg.norm(p)
    for i in order:
        h = x[i]; l = labels@h; s = share(l)
        for there,a,b in ((s>middle+gap*(1-middle),0,C),(s<middle-gap*middle,C,len(labels))):
            if not there: continue
            q = special.softmax(l[a:b]/T); k = a+int(q.argmax()); H = special.entr(q).sum()
            kept += 1
            if len(memory[k])<length: memory[k].append((H,h))
            elif H<max(memory[k], key=lambda m:m[0])[0]:
                memory[k][max(range(length), key=lambda j:memory[k][j][0])] = (H,h)
        out[i] = (share(np.array([proxy(k,h)@h for k in range(len(labels))]))+weight*s)/(1+weight)
    return out,kept

@pytest.mark.parametrize('beta', [None,5.5])
@pytest.mark.parametrize('length', [1,3])
def test_adaneg_is_the_plain_loop(case, beta, length):
    x,e,n = case
    order = torch.randperm(40, generator=torch.Generator().manual_seed(5)).tolist()
    want,kept = plainly(x, e, n, order, length, .5, .2, .1, beta, 4, 6)
    got = adaneg(x, e, n, order, length=length, gap=.2, sharpness=beta, groups=4, seed=6)
    assert kept>20 and got.dtype==np.float64 and np.allclose(got, want, atol=1e-10)

def test_adaneg_without_memories_is_neglabel(case):
    x,e,n = case
    for beta in (None,5.5):
        assert np.allclose(adaneg(x, e, n, gap=1., sharpness=beta, seed=3), neglabel(x, e, n, 5, seed=3), atol=1e-12)
    assert not np.allclose(adaneg(x, e, n, gap=0.), neglabel(x, e, n, 5), atol=1e-6)

def test_adaneg_depends_on_the_order_and_on_nothing_else(case):
    x,e,n = case
    order = torch.randperm(40, generator=torch.Generator().manual_seed(7))
    a = adaneg(x, e, n, order)
    assert np.array_equal(a, adaneg(x, e, n, order.tolist())) and not np.array_equal(a, adaneg(x, e, n))
    assert np.array_equal(adaneg(x[order], e, n), a[order])      # scores lie as the images do
    past = adaneg(x[order[:15]], e, n)
    assert np.array_equal(past, a[order[:15]])                   # what comes later changes nothing
    for wrong in (range(39),[0]*40):
        with pytest.raises(DreamError, match='each of the 40 images once'): adaneg(x, e, n, wrong)

def test_the_memory_keeps_the_least_doubtful():
    m = Memory(torch.eye(2,dtype=torch.float64), 2)
    x = unit(4,2).double()
    for h,H in zip(x, (3.,1.,2.,5.)): m.add(h, 1, H)
    assert sorted(m.doubt[1].tolist())==[1.,2.] and m.doubt[0].isinf().all()
    assert torch.allclose(m.proxies[1], F.normalize(m.labels[1]+x[1]+x[2], dim=0)) and torch.equal(m.proxies[0],
                                                                                                m.labels[0])

# tables

def test_a_table_has_the_columns_of_metrics_and_does_not_depend_on_the_batch_size(clip):
    ids,sets = pictures(24),dict(near=pictures(15,1,'near',()),far=pictures(11,2,'far',()))
    nouns = ['dog','tree','car','ship','bird','fish','cup','dress']
    t = vlm_table(clip, ids, sets, nouns=nouns, share=.5, seed=3)
    assert list(t)==[*COLUMNS,'note'] and list(t.method.unique())==['mcm (CLIP)','neglabel (CLIP)','adaneg (CLIP)']
    assert len(t)==6 and t.auroc.between(0,1).all() and (t.note==REFERENCE).all()
    pd.testing.assert_frame_equal(t, vlm_table(clip, ids, sets, nouns=nouns, share=.5, seed=3, batch_size=4), atol=.01)
    with pytest.raises(DreamError, match='labelled images'): vlm_table(clip, sets['near'], sets, NAMES)

def test_scores_do_not_depend_on_the_batch_size(clip):
    ds,e,n = pictures(17),text_embeddings(clip, NAMES),text_embeddings(clip, ['dog','tree','car','ship'])
    a,b = (image_embeddings(clip, ds, k) for k in (1,17))
    for f in (lambda x: mcm(x, e), lambda x: neglabel(x, e, n, 2), lambda x: adaneg(x, e, n, groups=2)):
        assert np.allclose(f(a), f(b), atol=1e-3)

def test_each_ood_set_is_a_stream_of_its_own(case):
    x,e,n = case
    ids,a,b = x[:20],x[20:30],x[30:]
    both = vlm_scores('adaneg', ids, dict(a=a,b=b), e, n, seed=1, groups=3)
    alone = vlm_scores('adaneg', ids, dict(b=b), e, n, seed=1, groups=3)
    assert all(np.array_equal(p,q) for p,q in zip(both['b'], alone['b']))
    assert not np.array_equal(both['a'][0], both['b'][0])        # the ID images beside another set
    first = vlm_scores('adaneg', ids, dict(a=a,b=b), e, n, mixed=False, groups=3)
    assert np.array_equal(first['a'][0], first['b'][0])          # ID images come first, and see no OOD image
    other = vlm_scores('neglabel', ids, dict(a=a,b=b), e, n, groups=3)
    assert np.array_equal(other['a'][0], other['b'][0])
    with pytest.raises(DreamError, match='no method'): vlm_scores('clipn', ids, dict(a=a), e, n)
