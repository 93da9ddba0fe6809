"""Input from others that means harm: each is refused in one sentence, or read as what it is, and nothing of it is run,
written elsewhere, or held in memory without bound."""
import ast,io,json,os,re,resource,struct,subprocess,sys,zlib
from pathlib import Path
import numpy as np,pandas as pd,pytest,torch,yaml
from PIL import Image
from safetensors.torch import save_file
from dream_ood.core import *
from dream_ood.core import as_cells,fit_name,load_state,one_line,read_yaml,resumed,save_state,short,unfit
from dream_ood.data import led_out,list_folder,load_images,look_through,opened,picture,read_image
from dream_ood.foundation import check_index,known_nouns,load_foundation,tiny_pipeline
from dream_ood.networks import PACKAGED,pretrained,read_weights,weights_file
from dream_ood.plots import as_markdown,render
from dream_ood.settings import Source
from dream_ood.study import load_profile
from dream_ood.workflow import Mistake,check_parameters,defaults,execute_notebook,from_words

ROOT = Path(__file__).parent.parent

def said(f, *args, error=DreamError, **kwargs): # the one sentence that a call ends in
    with pytest.raises(error) as e: f(*args, **kwargs)
    assert '\n' not in str(e.value) and len(str(e.value))<2000
    return str(e.value)

class Evil:
    "Pickled, it makes a file when it is read."
    def __init__(self, mark): self.mark = str(mark)
    def __reduce__(self): return os.mkdir,(self.mark,)

# -- no code of others ------------------------------------------------------------------------------------------------
ALLOWED = { # what the package may do in one place each, and why
    ('networks','torch.load'): 'a file that is known to the byte, and even that with weights_only',
    ('openood','pickle.dumps'): 'written, never read: OpenOOD wants it',
    ('data','tarfile.open'): 'shards of a pool: their members are read where they lie, and nothing is unpacked',
    ('store','tarfile.open'): 'plain files are copied out by name; a link, or a path that leaves, is refused'}
UNSAFE = {'torch.load','pickle.load','pickle.loads','pickle.dumps','yaml.load','yaml.unsafe_load','yaml.full_load',
          'eval',
          'exec','compile','os.system','os.popen','joblib.load','pd.read_pickle','tarfile.open','zipfile.ZipFile',
          'shutil.unpack_archive','torch.hub.load','yaml.safe_load','marshal.loads','shelve.open','dill.loads'}

@pytest.mark.parametrize('path', sorted((ROOT/'dream_ood').glob('*.py')), ids=lambda p:p.stem)
def test_the_package_reads_no_pickle_and_runs_no_text(path):
    for n in ast.walk(ast.parse(path.read_text())):
        if not isinstance(n, ast.Call): continue
        name,keys = ast.unparse(n.func),{k.arg:ast.unparse(k.value) for k in n.keywords}
        assert name not in UNSAFE or (path.stem,name) in ALLOWED, f'line {n.lineno}: {name}'
        assert keys.get('shell')!='True' and keys.get('allow_pickle')!='True' and keys.get('weights_only')!='False'
        assert keys.get('trust_remote_code') in (None,'False')
        if name.endswith('.from_pretrained') and any(w in name for w in ('Pipeline','CLIPModel')):
            assert keys.get('use_safetensors')=='True', f'line {n.lineno}: {name}'

@pytest.mark.parametrize('name', ['a.pth','a.bin','a.pt','a.safetensors'])
def test_weights_that_bring_code_are_not_read(tmp_path, name):
    torch.save(dict(state_dict=Evil(tmp_path/'mark')), tmp_path/name)
    words = said(read_weights, tmp_path/name)
    assert not (tmp_path/'mark').exists()
    assert ('holds no weights' if name=='a.safetensors' else 'save_file(torch.load(PATH, weights_only=True)') in words

def test_a_harmless_file_of_torch_is_to_be_converted_and_then_read(tmp_path):
    d = dict(w=torch.eye(2))
    torch.save(d, tmp_path/'a.pth')
    assert 'safetensors' in said(pretrained, 'resnet18', 2, str(tmp_path/'a.pth'))
    save_file(torch.load(tmp_path/'a.pth', weights_only=True), tmp_path/'a.safetensors')     # as the sentence says
    assert torch.equal(read_weights(tmp_path/'a.safetensors')['w'], d['w'])

def test_the_package_with_weights_is_known_to_the_byte(tmp_path, monkeypatch):
    [(name,(*_,nets,sha))] = PACKAGED.items()
    f = weights_file(nets[0], name)
    assert sha256(f)==sha and len(read_weights(f))==247
    changed = tmp_path/f.name; changed.write_bytes(f.read_bytes()+b' ')
    assert 'convert' in said(read_weights, changed)

def test_a_checkpoint_brings_no_code(tmp_path):
    net = torch.nn.Linear(2, 2)
    torch.save(dict(net=Evil(tmp_path/'mark')), tmp_path/'a')
    assert 'is damaged' in said(resumed, tmp_path/'a', dict(net=net)) and not (tmp_path/'mark').exists()
    save_state(tmp_path/'a', dict(net=torch.nn.Linear(3,3).state_dict(), rows=[]))
    assert 'of another training' in said(resumed, tmp_path/'a', dict(net=net))
    save_file({}, tmp_path/'a', dict(state='{"tensor": "7"}'))
    assert 'is damaged' in said(load_state, tmp_path/'a')

def test_a_foundation_is_loaded_from_safetensors_alone(tmp_path):
    tiny_pipeline().save_pretrained(tmp_path/'m')
    f = tmp_path/'m'/'unet'/'diffusion_pytorch_model.safetensors'
    torch.save(Evil(tmp_path/'mark'), f.with_suffix('.bin'))
    load_foundation(str(tmp_path/'m'), 'cpu')                        # the .bin beside it is left alone
    f.unlink()
    assert 'diffusion_pytorch_model.bin' in said(load_foundation, str(tmp_path/'m'), 'cpu')
    assert not (tmp_path/'mark').exists()

@pytest.mark.parametrize('part,of', [('_class_name',['pipeline','Mine']), ('unet',['my_unet','Evil']),
                                     ('vae',['os','system']),
                                     ('scheduler',['subprocess','Popen'])])
def test_a_foundation_brings_no_code_of_its_own(tmp_path, part, of):
    tiny_pipeline().save_pretrained(tmp_path/'m')
    index = json.loads((tmp_path/'m'/'model_index.json').read_text())
    (tmp_path/'m'/'model_index.json').write_text(json.dumps(index|{part:of}))
    for name in ('pipeline','unet/my_unet'):
        (tmp_path/'m'/f'{name}.py').write_text(f'import os; os.mkdir({str(tmp_path/"mark")!r})')
    assert 'code of its own' in said(load_foundation, str(tmp_path/'m'), 'cpu')
    assert not (tmp_path/'mark').exists() and check_index('m', index)=='StableDiffusionPipeline'

def test_what_stable_diffusion_brings_is_no_foreign_code():
    assert check_index('sd', dict(_class_name='StableDiffusionPipeline', unet=['diffusers','UNet2DConditionModel'],
        safety_checker=['stable_diffusion','StableDiffusionSafetyChecker'], requires_safety_checker=True,
        image_encoder=[None,None], force_zeros=[True,False]))=='StableDiffusionPipeline'

# -- YAML -------------------------------------------------------------------------------------------------------------
BOMB = 'a0: &a0 [ha]\n'+''.join(f'a{i+1}: &a{i+1} [{",".join([f"*a{i}"]*10)}]\n' for i in range(9))
MERGES = 'a0: &a0 {k: 1}\n'+''.join(f'a{i+1}: &a{i+1} {{<<: [{",".join([f"*a{i}"]*10)}]}}\n' for i in range(9))
YAML = dict(bomb=BOMB, bomb_as_a_name=BOMB+'name: *a9\n', merges=MERGES, circle='a: &a [*a]',
            circle_in_a_mapping='a: &a {b: *a}',
    object='!!python/object/apply:os.system [touch x]', name='!!python/name:os.system',
    new='!!python/object/new:dict {}',
    module='!!python/module:os', deep='['*1500, deep_mapping='{a: '*500+'1'+'}'*500, date='a: 2001-99-99',
    long='a: '+'9'*5000,
    number='!!int x', timestamp='!!timestamp x', key='? [1]\n: 2', number_as_key='1: 2', control='a: \x01',
    nul='a: "\\0"\nb',
    list='[1, 2]', text='text', two='a: 1\n---\nb: 2', tab='\ta: 1', merge='<<: 3', omap='!!omap [1]',
    base='base: {a: 1}',
    base_null='base: "a\\0b"', base_long=f'base: {"x"*5000}', base_user='base: ~nobody_of_this_name/x',
    every='evaluation: {every: {1: 2}}',
    methods='evaluation: {every: {"{}": knn}, methods: [1]}\ntraining: [1]', section='data: 3',
    sections='data: [1]\nfoundation: x',
    images='data: {images: "a\\0b"}', images_long=f'data: {{images: {"x"*5000}}}', images_list='data: {images: [1]}')

@pytest.mark.parametrize('text', YAML.values(), ids=YAML)
def test_yaml_that_means_harm_is_one_sentence(tmp_path, text):
    (tmp_path/'p.yaml').write_bytes(text.encode())
    assert 'p.yaml' in said(load_profile, tmp_path/'p.yaml') or 'base' in text

@pytest.mark.parametrize('data', [b'\xff\xfe\x00', b'\x80', b'name: \xc3\x28', bytes(range(256)), b'\0'*99])
def test_bytes_that_are_no_text_are_one_sentence(tmp_path, data):
    (tmp_path/'p.yaml').write_bytes(data); said(load_profile, tmp_path/'p.yaml')

def test_a_profile_that_is_none_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path/'pipe')
    assert 'no profile' in said(load_profile, tmp_path/'pipe') and 'no profile' in said(load_profile, '/dev/zero')
    with open(tmp_path/'big','wb') as f: f.truncate(2**23)
    assert 'more than 4 MB' in said(load_profile, tmp_path/'big')
    for path in ('a\0b', 'x'*5000, '~nobody_of_this_name/p.yaml'): said(load_profile, path)

def test_aliases_that_are_meant_stay():
    assert read_yaml('a: &a {b: 1}\nc: {<<: *a, d: 2}\ne: [*a, *a]')['c']==dict(b=1,d=2)

def test_json_nested_without_end_is_one_sentence(tmp_path):
    for text in (b'['*200_000, b'\xff', b'{"a": 1', b''):
        (tmp_path/'a.json').write_bytes(text)
        assert 'a.json' in said(load_json, tmp_path/'a.json')
    assert 'cannot be read' in said(load_json, tmp_path/'none.json')

# -- names ------------------------------------------------------------------------------------------------------------
WRONG = ['../x', '..', '.', '/etc/passwd', 'a/b', 'a\\b', 'a\0b', 'a\nb', 'a\tb', '.hidden', '', ' ', ' a', 'a ',
         'x'*300,
         'ö'*100, 'a\x1b[2Jb', 'a\u202ebmp.', 'a\u2028b', 'a\udcffb', '\u2066a']
FINE = ['coat', 'T-shirt (blue)', 'Löwe', '犬', 'кот', '=1+1', '+', '-', '<b>', 'a"b', "o'clock", '$HOME', '`ls`',
        '; rm -rf x',
        '{braces}', '%s', 'CON', 'a b', '~', '👩‍🔬', 'می‌خواهم']

def mini(tmp_path, **changes): # path of mini.yaml with values at dotted keys
    d = yaml.safe_load((ROOT/'profiles'/'smoke.yaml').read_text())
    d['base'] = str(ROOT/'profiles'/'mini.yaml') if 'base' not in d else str((ROOT/d['base']).resolve())
    for k,v in changes.items():
        *at,last = k.split('__'); x = d
        for a in at: x = x.setdefault(a, {})
        x[last] = v
    (tmp_path/'p.yaml').write_text(yaml.safe_dump(d)); return tmp_path/'p.yaml'

@pytest.mark.parametrize('name', WRONG, ids=ascii)
def test_no_name_leads_out_of_its_folder(name):
    assert unfit(name) and 'take another' in said(fit_name, 'classes', name, error=ValueError)

@pytest.mark.parametrize('name', FINE)
def test_odd_names_are_names(tmp_path, name):
    assert not unfit(name)
    (tmp_path/name).mkdir(); assert [f.name for f in tmp_path.iterdir()]==[name]

@pytest.mark.parametrize('where', ['data__classes','decoding__pools','training__contenders','data__ood',
                                   'sampling__pools','name'])
def test_a_profile_takes_no_such_name(tmp_path, where):
    p = load_profile(mini(tmp_path)).model_dump(exclude_none=True)
    for bad in ('../x','a\nb','x'*300,'.b'):
        if where=='name': value = bad
        elif where=='data__classes': value = [bad,*p['data']['classes'][1:]]
        else:
            section,key = where.split('__'); one = next(iter(p[section][key].values())); value = {bad:one}
        words = said(load_profile, mini(tmp_path, **{where:value}))
        assert where.replace('__','.').split('.')[-1] in words, words

@pytest.mark.parametrize('name', ['..','.','a/b','a\nb','a b','', 'x'*200, '.a', 'a\n'])
def test_a_study_s_name_is_a_plain_folder(tmp_path, name): assert 'name' in said(load_profile,
    mini(tmp_path, name=name))

def test_the_command_writes_no_profile_elsewhere(tmp_path, monkeypatch):
    from dream_ood.cli import profile_of
    for c in 'ab': (tmp_path/'images'/c).mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    for name in ('../../up','/tmp/x','a\nb'): assert '--name' in said(profile_of, tmp_path/'images', tmp_path/'a'/'b',
        name=name)
    assert [f.name for f in tmp_path.iterdir()]==['images']

def test_nouns_of_a_foundation_lead_nowhere(tmp_path):
    from dream_ood.decoding import numbered,plan_named
    (tmp_path/'nouns.csv').write_text('noun\n../../x\ncat\n"a\nb"\n/etc\n<|endoftext|>\n{}\n')
    assert known_nouns(tiny_pipeline(), (), tmp_path/'nouns.csv')==['cat']
    df,_ = plan_named(['../x'],['../x'],['a ../x'])
    assert 'becomes a folder' in said(numbered, df, 'other', 0)
    for data in (b'', b'\xff\xfe\x00', b'a,b\n1,2,3\n4', b'\0\0'):
        (tmp_path/'nouns.csv').write_bytes(data)
        assert 'foundation.nouns' in said(known_nouns, tiny_pipeline(), (), tmp_path/'nouns.csv')

def test_prompts_hold_no_special_tokens_and_are_no_format_strings(tmp_path):
    from dream_ood.foundation import prompt_ids,token_ids
    pipe = tiny_pipeline()
    for noun in ('<|endoftext|>','cat<|startoftext|>','<|endoftext|> cat'): assert 'does not know' in said(token_ids,
        pipe, noun)
    assert 'control character' in said(load_profile,
                                       mini(tmp_path, foundation__prompt='a \x85{}'))   # YAML would read a space
    for prompt in ('a {0} {}','a {} {x}','{0.__class__} {}','a } {}','{} {{'):
        assert 'prompt' in said(load_profile, mini(tmp_path, foundation__prompt=prompt))

# -- pictures ---------------------------------------------------------------------------------------------------------
def png(w, h, mode=2, depth=8, data=b''): # a file that says that it has so many pixels
    def chunk(kind, body): return struct.pack('>I',len(body))+kind+body+struct.pack('>I',zlib.crc32(kind+body))
    return (b'\x89PNG\r\n\x1a\n'+chunk(b'IHDR',struct.pack('>IIBBBBB',w,h,depth,mode,0,0,0))+chunk(b'IDAT',
        zlib.compress(data))
            +chunk(b'IEND',b''))

def saved(i, kind, **how): b = io.BytesIO(); i.save(b, kind, **how); return b.getvalue()
RGB = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40,50,3)).astype(np.uint8))
EPS = (b'%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n(/tmp/mark) (w) file closefile showpage\n'
       b'%%EOF\n')
NO_PICTURES = dict(huge=png(60_000,60_000), tall=png(2**31-1,1), nothing=png(0,0), no_data=png(8,8),
                   truncated=saved(RGB,'PNG')[:200],
    truncated_jpeg=saved(RGB,'JPEG')[:300], bomb=png(16_000,16_000,data=bytes(16_000*200)), eps=EPS, text=b'hello',
    empty=b'',
    gif=b'GIF89a'+struct.pack('<HH',65535,65535)+b'\0\0\0', tiff=b'II*\0\xff\xff\xff\xff', fits=b'SIMPLE  ='+b' '*2880,
    deep_huge=png(60_000,60_000,0,16),
    svg=b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>',
    ico=b'\0\0\1\0\1\0'+b'\xff'*40, psd=b'8BPS\0\1'+b'\0'*40, xpm=b'/* XPM */\nstatic char *a[] = {"9 9 1 1"};')

@pytest.mark.parametrize('data', NO_PICTURES.values(), ids=NO_PICTURES)
def test_what_is_no_picture_is_one_sentence_and_takes_no_memory(tmp_path, data):
    (tmp_path/'a.png').write_bytes(data)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert 'cannot be read as an image' in said(read_image, tmp_path/'a.png')
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss-before < 150_000    # kB

def test_formats_that_run_programs_are_not_opened(tmp_path, monkeypatch):
    from PIL import EpsImagePlugin
    monkeypatch.setattr(EpsImagePlugin, 'Ghostscript', lambda *a, **k: pytest.fail('Ghostscript was called'))
    Image.open(io.BytesIO(EPS))                                       # Pillow would
    with pytest.raises(Image.UnidentifiedImageError): opened(EPS)

def frames(n): return [Image.new('L', (30,20), 7*i) for i in range(n)]
PALETTE = RGB.quantize(8); PALETTE.info['transparency'] = 0
PICTURES = dict(rgb=saved(RGB,'PNG'), sixteen=saved(Image.fromarray(np.full((20,30),65535,np.uint16)),'PNG'),
                cmyk=saved(RGB.convert('CMYK'),'JPEG'),
    palette=saved(PALETTE,'PNG',transparency=0), one_bit=saved(RGB.convert('1'),'PNG'),
    la=saved(RGB.convert('LA'),'PNG'),
    gif=saved(frames(3)[0],'GIF',save_all=True,append_images=frames(40)[1:]),
    apng=saved(frames(3)[0],'PNG',save_all=True,append_images=frames(9)[1:]),
    webp=saved(frames(3)[0],'WEBP',save_all=True,append_images=frames(9)[1:]),
    tiff=saved(RGB,'TIFF',save_all=True,append_images=[RGB]*3),
    float=saved(Image.fromarray(np.full((20,30),.5,np.float32)),'TIFF'), trailing=saved(RGB,'PNG')+b'<script>'*9,
    bmp=saved(RGB,'BMP'),
    ppm=saved(RGB,'PPM'), tga=saved(RGB,'TGA'))

@pytest.mark.parametrize('data', PICTURES.values(), ids=PICTURES)
def test_odd_pictures_are_read_as_a_viewer_shows_them(tmp_path, data):
    (tmp_path/'a.png').write_bytes(data)
    x = read_image(tmp_path/'a.png')
    assert x.dtype==torch.uint8 and x.shape[0]==3 and x.shape[1:] in ((40,50),(20,30))
    if data==PICTURES['sixteen']: assert (x==255).all()
    if data in (PICTURES['gif'],PICTURES['apng'],PICTURES['webp']): assert (x==0).all()     # the first of the frames

def test_a_reduced_picture_is_reduced_in_strips_as_in_one():
    from dream_ood.data import reduced
    i = Image.fromarray(np.random.default_rng(1).integers(0, 64,
                                                          (1501,3001)).astype(np.uint8)); i.putpalette(range(192))
    assert i.mode=='P'
    whole = np.asarray(i.convert('RGB').reduce(4), int)
    assert np.abs(np.asarray(reduced(i,'RGB',4), int)-whole).max()==0

def test_a_link_out_of_the_folder_is_said(tmp_path, capsys):
    for c in 'ab':
        (tmp_path/'mine'/c).mkdir(parents=True)
        for k in range(3): RGB.save(tmp_path/'mine'/c/f'{k}.png')
    (tmp_path/'private').mkdir(); RGB.save(tmp_path/'private'/'0.png'); (tmp_path/'private'/'passwd').write_text('root')
    (tmp_path/'mine'/'a'/'led').symlink_to(tmp_path/'private', target_is_directory=True)
    (tmp_path/'mine'/'b'/'one.png').symlink_to(tmp_path/'private'/'0.png')
    (tmp_path/'mine'/'b'/'passwd.png').symlink_to('/etc/passwd')
    (tmp_path/'mine'/'b'/'dev.png').symlink_to('/dev/zero')
    (tmp_path/'mine'/'b'/'same.png').symlink_to(tmp_path/'mine'/'b'/'0.png')
    root = tmp_path/'mine'; files = list_folder(root).files
    assert sorted(f.name for f in led_out(root, files))==['0.png','dev.png','one.png','passwd.png']
    for f in ('passwd.png','dev.png'): assert 'cannot be read as an image' in said(read_image, root/'b'/f)

@pytest.mark.parametrize('line', ['../../etc/x.jpg 0', '/etc/x.jpg 0', 'a/../../x.jpg 1', 'x.jpg', 'x.jpg 99',
                                  '\x1b[2J.jpg x'])
def test_an_image_list_leads_nowhere_else(tmp_path, line):
    RGB.save(tmp_path/'x.jpg'); (tmp_path/'l.txt').write_text(line)
    d = load_profile(ROOT/'profiles'/'smoke.yaml').data
    words = said(load_images, 'set', Source(kind='imglist', path=str(tmp_path), list=str(tmp_path/'l.txt')), d,
                 d.classes)
    assert words.isprintable()

# -- notebooks' parameters --------------------------------------------------------------------------------------------
CELL = "profile = 'a.yaml'\nseed = 0\nnames = ['x']\na,b = 1,2"
def a_notebook(path, cell=CELL, tags=('parameters',)):
    code = lambda s,t: dict(cell_type='code', id='a'+str(len(t)), metadata=dict(tags=list(t)), source=s, outputs=[],
                            execution_count=None)
    path.write_text(json.dumps(dict(cells=[code(cell,tags), code('1',())], nbformat=4, nbformat_minor=5,
        metadata=dict(kernelspec=dict(name='python3', display_name='python3', language='python'))))); return path

@pytest.mark.parametrize('words', [['x=1'], ["import os; os.mkdir('mark')\nx=1"], ["seed\nimport os=1"], ['seed'],
                                   ['=1'], ['a.b=1'],
                                   ['class=1'], ['seed=!!python/name:os.system'], ['seed=[1'], [f'seed={"["*999}'],
                                   ['ｓeed.x=1']])
def test_a_parameter_is_a_name_of_the_notebook_s(tmp_path, words): said(from_words, a_notebook(tmp_path/'a.ipynb'),
    words, error=Mistake)

def test_values_stay_values(tmp_path):
    from papermill.translators import PythonTranslator
    nb = a_notebook(tmp_path/'a.ipynb')
    text = '\'"); import os; os.mkdir("mark") #\n"""\\'
    got = from_words(nb, ['profile='+text, 'seed=7', 'names=["a\'\\"b", c]', 'a=2001-01-01'])
    assert got['profile']==text and got['seed']==7 and got['names']==['a\'"b','c']
    for word in ('123','true','null','[1]','a: b','*x','1e3','-'): assert from_words(nb,
        [f'profile={word}'])=={'profile':word}
    space = {}; exec(PythonTranslator.codify({k:v for k,v in got.items() if k!='a'}), space)    # the injected cell
    assert space['profile']==text and space['names']==got['names'] and not Path('mark').exists()

def test_no_call_injects_a_line(tmp_path):
    nb = a_notebook(tmp_path/'a.ipynb')
    for names in (['x'],['seed=1\nimport os'],['import os;x']): said(check_parameters, nb, names, error=Mistake)
    said(execute_notebook, nb, tmp_path/'o.ipynb', error=Mistake, **{'import os;x':1})
    assert not (tmp_path/'o.ipynb').exists() and set(defaults(nb))=={'profile','seed','names','a','b'}
    assert defaults(a_notebook(tmp_path/'b.ipynb', tags=())) is None
    for text in ('','{','[]','{"cells": 3}','['*99999,
                 '{"cells": [{"metadata": {"tags": ["parameters"]}, "source": "1 +"}]}'):
        (tmp_path/'c.ipynb').write_text(text); said(defaults, tmp_path/'c.ipynb', error=Mistake)

def test_a_folder_for_runs_is_no_pattern():
    from dream_ood.cli import made
    for runs in ('a{x}','a\nb'): assert 'give that folder another name' in said(made, Path('x'), 'p.yaml', [0], runs,
        'table1')

# -- pages and tables -------------------------------------------------------------------------------------------------
XSS = '</script><script>alert(1)</script><img src=x onerror=alert(1)>"\'&{{7*7}}{% raw %}|`*_'

def test_names_break_no_page():
    from dream_ood.report import as_table
    for page in (render('gallery.html.j2', title=XSS,
                        data=dict(title=XSS, classes=[XSS], pools=[dict(name=XSS, src=['"onerror="'])])),
                 render('demo.html.j2', classes=[XSS], unknown=XSS, title=XSS)):
        assert '<script>alert' not in page and '<img src=x' not in page and '49' not in page.split('<style>')[0]

def test_a_card_is_front_matter_and_text():
    from dream_ood.classifier import model_card
    about = dict(classes=[XSS,'b\n\n# c'], method='a|b', recall=.95, chosen_on=None, backbone='x',
                 images=dict(train=1,validation=1), input=dict(image_size=8,greyscale=False),
        settings={}, made_from=dict(study=XSS, seed=0, foundation='', time=''), promised=None,
        measured=dict(test_images=9, accuracy=.5, coverage=.5, accuracy_of_accepted=.5,
                      ood={XSS:dict(group='near',images=3,accepted=.1)}))
    text = model_card(about)
    assert '\\<script\\>alert' in text and '<script>' not in re.sub('`[^`\n]*`|^classify.*','',text,
                                                                    flags=re.M) and '\n# c' not in text
    head = render('card.md.j2', study='a', pool='b: [c', seed=0, images=1, drawn=1, made='x', model='m',
                  prompt='a\n---\nb: {}', steps=1,
                  guidance=1, size=8, guide={}, rule=dict(k='x\n# y'), outliers=True, packed=False)
    assert yaml.safe_load(head.split('---')[1])['pretty_name']=='a, b: [c, seed 0' and '\n# y' not in head
    assert head.count('\n---')==1

def test_a_table_of_markdown_keeps_its_shape(tmp_path):
    df = pd.DataFrame({'a|b':['x|y\nz','<img src=x>','p < .05'], 'n':[1.,2.,3.]})
    save_table(tmp_path/'t.md', df)
    lines = (tmp_path/'t.md').read_text().splitlines()
    assert len(lines)==5 and {l.replace('\\|','').count('|')
                              for l in lines}=={3} and '<img' not in ''.join(lines) and 'p < .05' in lines[-1]
    save_table(tmp_path/'t.csv', df); assert pd.read_csv(tmp_path/'t.csv').equals(df)      # data stay as they are

def test_a_screen_and_a_spreadsheet_obey_no_file_name():
    from dream_ood.cli import as_columns,plain_path
    text = as_columns([dict(file='a\x1b[2J\nb', answer='=x', probability=.5)])
    assert text.count('\n')==2 and '\x1b' not in text
    for name in ("=cmd|' /C calc'!A0.jpg", '@x', '+1',
                 '-1'): assert plain_path(name)=='./'+name and Path(plain_path(name))==Path(name)
    assert plain_path('photos/=x.jpg')=='photos/=x.jpg' and plain_path('a.jpg')=='a.jpg'

def test_dollars_in_a_name_begin_no_formula():
    import matplotlib.pyplot as plt
    from dream_ood.foundation import labelled
    from dream_ood.plots import image_grid
    for fig in (image_grid([RGB]*2, cols=2, row_labels=['$\\frac$'], titles=['$x$','a\x1bb']),
                labelled([RGB], ['$\\bad{$'])):
        fig.savefig(io.BytesIO(), format='png'); plt.close(fig)

def test_timm_fetches_safetensors_alone(monkeypatch):
    import timm
    from timm.models import _builder
    asked,state = [],timm.create_model('resnet18').state_dict()
    monkeypatch.setattr(_builder, 'load_state_dict_from_hf', lambda *a, **k: asked.append(a) or dict(state))
    monkeypatch.setattr(_builder, 'load_state_dict_from_url', lambda *a, **k: pytest.fail('fetched a file of torch'),
                        raising=False)
    assert pretrained('resnet18', 3, 'timm').get_classifier().out_features==3 and asked[0][1]=='model.safetensors'
    monkeypatch.setattr(_builder, 'load_state_dict_from_hf', lambda *a, **k: (_ for _ in ()).throw(OSError('offline')))
    assert 'cannot be had' in said(pretrained, 'resnet18', 3, 'timm')
