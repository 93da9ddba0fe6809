"""Write the folders of colour pictures that own_images.ipynb measures on.

    ROOT/folders/<kind>/<class>/<file>    pictures of a class
    ROOT/strangers/<kind>/<file>          same style, none of the classes

    bash nbs/benchmarks/own_folders.sh ROOT                          # packages, 750 MB, unpacked into ROOT/dl
    python nbs/benchmarks/own_folders.py ROOT [KIND ...] [--sheets]  # minutes; --sheets: what is in them

No network is used here, and the same packages give the same files: where a class is capped, the order is by a hash of
the name. Left out: same pixels, near copies (16 x 16 thumbnails), empty pictures, grey clip art.

| kind | package | licence |
|---|---|---|
| clipart | Debian openclipart-png | public domain |
| emoji | npm emoji-datasource-google 16.0.0 (Noto Emoji, 64 px) | MIT, art Apache-2.0 |
| stamps | Debian tuxpaint-stamps-default | GPL-2 |
| textures | Debian ufoai-textures, openarena-081-textures | GPL-2 and others, see their copyright files |
| units | Debian wesnoth-1.16-data (sprites, 72 px) | GPL-2 |
| tiles | Debian source of crawl (rltiles, 32 px) | mostly CC0 |
| objects, dungeon, drawings | other folders of the packages of emoji, tiles and clipart | as these |

Units are frames of the same few figures, so that a random split shares figures between training and test.
"""
import argparse
import hashlib
import io
import json
import re
import shutil
import sys
import warnings
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image, ImageDraw

warnings.filterwarnings('ignore', module='PIL')
Image.MAX_IMAGE_PIXELS = None                   # load() has its own limit, below

OWN = Path(next((a for a in sys.argv[1:2] if a[0] != '-'), '_data/own'))
UN = OWN / 'dl/un'
MAX_SIDE = 512
MAX_PIXELS = 36_000_000     # a few openclipart pictures are 13000 x 13000: seconds each
EXTS = ('.png', '.jpg', '.jpeg', '.tga')


# ---------------------------------------------------------------- pictures

class Item:
    """One picture of a source: its name (path in the source) and how to read its bytes."""

    def __init__(self, name, read):
        self.name, self.read = name, read

    @property
    def stem(self):
        return self.name.rsplit('/', 1)[-1].rsplit('.', 1)[0]

    def slug(self):
        return re.sub(r'[^A-Za-z0-9]+', '_', self.name.rsplit('.', 1)[0]).strip('_')[-80:]

    def rank(self):
        return hashlib.sha1(self.name.encode()).hexdigest()


def tree(root):
    """All pictures below a folder."""
    root = Path(root)
    if not root.is_dir():
        raise SystemExit(f'{root} is not there: run fetch.sh first')
    return [Item(p.relative_to(root).as_posix(), p.read_bytes)
            for p in sorted(root.rglob('*')) if p.suffix.lower() in EXTS and p.is_file() and not p.name.startswith('.')]


def pack(path):
    """All pictures of a pk3 (zip) file."""
    if not Path(path).is_file():
        raise SystemExit(f'{path} is not there: run fetch.sh first')
    z = zipfile.ZipFile(path)
    return [Item(n, lambda n=n: z.read(n)) for n in sorted(z.namelist())
            if n.lower().endswith(EXTS)]


def load(data, alpha=True):
    """The picture as RGB, or RGBA where it has transparency; at most MAX_SIDE."""
    im = Image.open(io.BytesIO(data))
    if im.size[0] * im.size[1] > MAX_PIXELS:
        raise OSError(f'too large: {im.size}')
    im.load()
    has_alpha = alpha and (im.mode in ('RGBA', 'LA', 'PA') or 'transparency' in im.info)
    im = im.convert('RGBA' if has_alpha else 'RGB')
    if has_alpha and im.getchannel('A').getextrema()[0] == 255:
        im = im.convert('RGB')
    if max(im.size) > MAX_SIDE:
        im.thumbnail((MAX_SIDE, MAX_SIDE), Image.Resampling.LANCZOS)
    return im


def on_white(im):
    if im.mode != 'RGBA':
        return im
    return Image.alpha_composite(Image.new('RGBA', im.size, 'white'), im).convert('RGB')


def colourful(im):
    """Part of the drawn (visible, not white) pixels whose channels differ by over 24."""
    a = np.asarray(on_white(im).resize((48, 48)), np.int16)
    drawn = a.min(-1) < 245
    spread = a.max(-1) - a.min(-1)
    return float((spread[drawn] > 24).mean()) if drawn.any() else 0.0


def drawn_part(im):
    """Part of the picture that is neither transparent nor white."""
    return float((np.asarray(on_white(im).resize((48, 48))).min(-1) < 245).mean())


def signature(im):
    return np.asarray(on_white(im).resize((16, 16), Image.Resampling.BOX), np.float32)


class Sieve:
    """Lets a picture through once per kind: no same bytes, no same pixels, and none
    whose 16 x 16 thumbnail is on average within `near` (of 255) of an earlier one."""

    def __init__(self, near=0.0):
        self.near, self.seen, self.sigs = near, set(), []

    def passes(self, data, im):
        keys = {hashlib.sha1(data).digest(),
                hashlib.sha1(repr((im.size, im.mode)).encode() + im.tobytes()).digest()}
        if keys & self.seen:
            return False
        sig = signature(im)
        if self.near and self.sigs:
            if np.abs(np.stack(self.sigs) - sig).mean((1, 2, 3)).min() < self.near:
                return False
        self.seen |= keys
        self.sigs.append(sig)
        return True


def write(kind, groups, *, near=0.0, colour=0.0, alpha=True, cap=100, strangers=200,
          min_side=24, order=Item.rank):
    """Write one kind. groups: {class: items}, with the strangers under None (last)."""
    rows, sieve = Counter(), Sieve(near)
    for base in (OWN / 'folders' / kind, OWN / 'strangers' / kind):
        shutil.rmtree(base, ignore_errors=True)
    for cls, items in groups.items():
        folder = OWN / 'folders' / kind / cls if cls else OWN / 'strangers' / kind
        folder.mkdir(parents=True)
        limit = cap if cls else strangers
        for item in sorted(items, key=order):
            if rows[cls] >= limit:
                break
            data = item.read()
            try:
                im = load(data, alpha)
            except OSError as e:
                print(f'skipped {kind} {item.name}: {e}')
                continue
            if min(im.size) < min_side or max(im.size) > 4 * min(im.size):
                continue
            if np.ptp(np.asarray(on_white(im)), axis=(0, 1)).max() < 8:
                continue                                    # one flat colour, or empty
            if drawn_part(im) < 0.02:
                continue
            if colour and colourful(im) < colour:
                continue
            if not sieve.passes(data, im):
                continue
            out = folder / item.slug()
            if out.with_suffix('.png').exists() or out.with_suffix('.jpg').exists():
                out = folder / f'{item.slug()}_{item.rank()[:6]}'
            raw = Image.open(io.BytesIO(data))
            if raw.format == 'JPEG' and raw.mode == 'RGB' and raw.size == im.size:
                out.with_suffix('.jpg').write_bytes(data)   # as it is
            else:
                im.save(out.with_suffix('.png'))
            rows[cls] += 1
    return [dict(kind=kind, cls=c or '(strangers)', n=n) for c, n in rows.items()]


def pick(items, under=(), match=None, but=None):
    """Items below one of the folders `under`, whose name has `match` and has no `but`."""
    under = (under,) if isinstance(under, str) else under
    return [i for i in items
            if (not under or any(i.name.startswith(u.rstrip('/') + '/') for u in under))
            and (match is None or re.search(match, i.name, re.I))
            and (but is None or not re.search(but, i.name, re.I))]


# ---------------------------------------------------------------- kinds

def clipart():
    it = [i for i in tree('/usr/share/openclipart/png')
          if not re.search(r'_bw|bw_|b_w_|contour|outline|silhou', i.name)]
    return write('clipart', {
        'fruit': pick(it, 'food/fruit', but='juice|pie_|turkey|champignon|kallisti|tile_|tree|tote'
                      '|gumnut|slate'),
        'mammal': pick(it, 'animals/mammals', but='emule|scrath|mechorse|symbol'),
        'plant': pick(it, 'plants', but='saw|pruner|human|champignon|mushroom|toadstool|balls'
                      '|potato|mirjam|gumnut|cayenne|fruits'),
        'dessert': pick(it, 'food/desserts', but='apple|cherry'),
        'building': pick(it, 'buildings', but='furniture|brick|capitello|demoliz|sign|wall|hallway'),
        'tool': pick(it, 'tools', but='weapons|toys|smoke|panel|gallows|nodding|scart|bottle|kexi'
                     '|cellular|burner|pansement|cage|natural_gas|camera|nunchaku|mattone|ruota|cog'
                     '|engren|stefan|meatgrinder|insecticide|umbrella|pan_|electric_lighter|bucket_michael'),
        None: pick(it, ('animals/birds', 'animals/bugs', 'animals/fish', 'recreation/music',
                        'food/beverages', 'food/vegetables', 'transportation/vehicles',
                        'people/clothing', 'recreation/sports', 'tools/weapons', 'food/breads_and_carbs',
                        'transportation/boating', 'animals/dinosaurs'),
                   but='bullet_hole|bat_|apple|fruit|sportcar|pantyhose|cherry|orange_|mo_0|lighthouse|fabert|yoga'
                   '|rules|sail.*points|blueprint|bluepr|flower|muffin|binocul'),
    }, near=2.5, colour=0.05, strangers=190)


def emoji_by_subcategory():
    root = UN / 'emoji/package'
    by = {}
    for e in json.loads((root / 'emoji.json').read_text()):  # skin tones are not entries of their own
        if e['has_img_google']:
            p = root / 'img/google/64' / e['image']
            name = f'{e["short_name"]}.png'
            by.setdefault(e['subcategory'], []).append(Item(name, p.read_bytes))
    return by


def emoji():
    by = emoji_by_subcategory()

    def sub(*names, but=None):
        return pick([i for n in names for i in by[n]], but=but)
    faces = [k for k in by if k.startswith('face-')]
    return write('emoji', {
        'mammal': sub('animal-mammal', but='paw|feet'),
        'meal': sub('food-prepared', 'food-asian', 'food-sweet', but='chopsticks|knife_fork|^salt|^bone'),
        'clothing': sub('clothing', but='lipstick|ring|gem|prayer|fan|hair_pick'),
        'vehicle': sub('transport-ground', 'transport-air', 'transport-water',
                       but='light|stop|station|fuel|wheel|anchor|track|motorway|oil|construction|seat'
                       '|buoy|busstop|barrier|parachute|_sign'),
        'flag': sub('country-flag'),
        'face': sub(*faces, but='ghost|alien|robot|hankey|skull|ogre|goblin|space_invader'),
        None: sub('food-fruit', 'food-vegetable', 'drink', 'animal-bird', 'animal-marine', 'animal-bug',
                  'animal-reptile', 'animal-amphibian', 'musical-instrument', 'tool', 'sport',
                  'plant-flower', 'plant-other', 'place-building',
                        but=r'^seal|^whale|shirt|uniform|diving_mask|ice_skate'),
    })


def stamps():
    root = next((UN / 'tuxpaint-stamps-default').rglob('stamps'))
    it = [i for i in tree(root) if not re.search('outline|_mirror', i.name)]
    photo = r'cartoon|plastic|silo'
    return write('stamps', {
        'bird': pick(it, 'animals/birds', but=photo),
        'mammal': pick(it, ('animals/mammals', 'animals/marsupials'), but=photo + '|toys|hedgehog'),
        'plant': pick(it, ('plants/flowers', 'plants/trees', 'plants'), but='plastic|cep|eggplant'),
        'food': pick(it, 'food', but='core'),
        'vehicle': pick(it, ('vehicles', 'military/vehicles'), but='7spoke|trainSign|eddie|german_gun|wheel_tractor'),
        'household': pick(it, ('household', 'hobbies', 'medical'),
                          but='music|tooth|rubberduck|cartoon|cementmixer'),
        None: pick(it, ('animals/fish', 'animals/insects', 'animals/amphibians', 'animals/lizards',
                        'animals/shellfish', 'animals/dinosaur', 'clothes', 'hobbies/music', 'sports',
                        'space', 'town/monuments', 'town/houses', 'town/flags', 'town/cartoon',
                        'seasonal/halloween', 'seasonal/hanukkah', 'seasonal/newyears', 'people',
                        'town/roadsigns', 'symbols/money/euro', 'symbols/money/us',
                        'symbols/money/canadian', 'symbols/money/japanese',
                        'naturalforces'),
                   but='blackcat|bat_left|clothes/t_|jackolantern|ghost|skull|spider_computer|/farm|grannysmith'
                         '|docks|shipwreck|circus'),
    }, near=2.5)


def textures():
    it = (pack(UN / 'ufoai-textures/usr/share/games/ufoai/base/0textures.pk3')
          + pack(UN / 'openarena-081-textures/usr/share/games/openarena/baseoa/pak4-textures.pk3'))
    it = pick(it, 'textures', but=r'_(nm|gm|sm|rm|norm|local|height|s|spec|glow|lm|owfx)\.|/s_|fx\d*\.'
              r'|trim|light|broke|_alpha|/sfx|stair|steps|(?<!h)edge|grad\.|tex_pics|env/')

    def name(match, but=None, but_path=None):
        return [i for i in pick(it, but=but_path) if re.search(match, i.stem, re.I)
                and not (but and re.search(but, i.stem, re.I))]
    return write('textures', {
        'wood': name('wood|plank|parquet', 'chips|palet|barrier|ceiling|door|window|^wood01$', 'tex_mattn/wood006'),
        'brick': name('brick', 'floor_ow|trim|moss|streetbricks14|wall_bricks003'),
        'rock': name('rock|stone|cobble|gravel|pebble|cliff',
              'steps|tile|grass|rocket|dirt|wall|pjrock6|pjrock16|caverock', 'oquartz/.*stone'),
        'grass': name('grass|hedge', 'way|rock|stone|_k1', 'oquartz|organics|acc_dm3'),
        'metal': name('metal|mtl|rust|steel', 'bridge|fence|fnce|window|door|crate|duct|wall_btm|support'
                      '|pipe|cement|dpanel|sign|wrn|step|thrust|blood|grid|mtl_l|q1metal7|pent|rope|smetal64|specular'
                      '|hfloor|1final'),
        'carpet': name('carpet', 'blood'),
        None: name('concrete|plaster|stucco|asphalt|dirt|sand|soil|mud|desert|snow|tile|marble|roof'
                   '|wallpaper|water|ceramic|cret|ground', 'moss|grass|rock|stone|stn|brick|metal|mtl'
                   '|steel|exit|glasses|toxic|biohazard|sandbag|roofedge|brik|carpet|textile|sandwich'
                   '|wood|thousand|crate|pewter|secret|window'),
    }, near=3.0, alpha=False, min_side=60)


def units():
    it = tree(UN / 'wesnoth-1.16-data/usr/share/games/wesnoth/1.16/data/core/images/units')
    it = pick(it, but='die|death|dying|fade|teleport|transparent|halo|alpha|-dead|magic-cast|blur|missile'
              '|gryphon|projectile|water|submerge|underground|glow')

    def order(i):      # base pictures (short names) first, then action frames by hash
        return (bool(re.search(r'-\w|\d$', i.stem.replace('+female', ''))), i.rank())
    return write('units', {
        'human': pick(it, ('human-loyalists', 'human-outlaws', 'human-magi', 'human-peasants',
                           'dunefolk'), but='falcon|wyvern'),
        'elf': pick(it, 'elves-wood'),
        'dwarf': pick(it, 'dwarves'),
        'orc': pick(it, ('orcs', 'goblins')),
        'undead': pick(it, ('undead', 'undead-skeletal'), but='bat'),
        'drake': pick(it, 'drakes'),
        None: pick(it, ('saurians', 'nagas', 'merfolk', 'woses', 'trolls', 'ogres', 'monsters'),
                   but='skelet|bone|dragon|wyvern|horse|ghost'),
    }, near=11.0, cap=80, strangers=170, order=order)


def tiles():
    root = next((UN / 'crawl-src').rglob('rltiles'))
    it = pick(tree(root), but=r'UNUSED|overlay|_mask|label|brand')
    return write('tiles', {
        'weapon': pick(it, 'item/weapon'),
        'armour': pick(it, 'item/armour', but='headgear/.*old|orb'),
        'jewel': pick(it, ('item/ring', 'item/amulet'), but='i-'),
        'animal': pick(it, 'mon/animals', but='rolling'),
        'undead': pick(it, 'mon/undead', but='simulac|spectral'),
        None: pick(it, ('item/potion', 'item/wand', 'item/staff', 'item/scroll', 'item/book', 'item/food', 'item/misc',
                        'mon/nonliving', 'mon/demons', 'mon/fungi_plants', 'mon/dragons', 'mon/humanoids',
                        'mon/statues', 'mon/aberrations', 'dngn/statues'),
                   but='i-|uncollected|spectral|death_knight'),
    }, near=1.5)


def objects():
    by = emoji_by_subcategory()         # subcategories that emoji() has neither as classes nor as strangers

    def sub(*names, but=None):
        return pick([i for n in names for i in by[n]], but=but)
    return write('objects', {
        'sky': sub('sky & weather', but='umbrella|thermometer|^droplet|^fire|snowman|ocean'),
        'device': sub('computer', 'phone', 'light & video',
                      but='abacus|lantern|bulb|^mag|flashlight|candle|lamp|^calling'),
        'stationery': sub('office', 'book-paper', 'writing', but='wastebasket|briefcase|label|newspaper'),
        'household': sub('household', 'dishware', but='elevator|bubbles|safety_pin'),
        'sign': sub('transport-sign', 'warning'),
        None: sub('event', 'game', 'arts & crafts', 'award-medal', 'medical', 'science', 'money', 'lock',
                  'other-object', 'place-geographic', 'place-map', 'place-other', 'body-parts',
                  but='chart|receipt|ticket|red_envelope|placard|identification|foggy|night|sunrise|sunset|satellite'
                  '|tanabata|rice_scene|video_game|sparkle|spades|clubs|diamonds|lock_with_ink|bellhop|joystick'),
    }, cap=60, strangers=110)


def dungeon():
    root = next((UN / 'crawl-src').rglob('rltiles'))
    it = pick(tree(root), but=r'UNUSED|overlay|_mask|label|brand')

    def order(i):       # the first of each series of variants, then the second ...
        return (int(re.search(r'\d*$', i.stem).group() or 0), i.rank())
    return write('dungeon', {
        'wall': pick(it, 'dngn/wall', but='tree|torch|door|shadow|darker|mirrored|(abyss|crystal_wall)_(light|dark)'),
        'floor': pick(it, 'dngn/floor', but=r'lava|_sea|sigil|_[nsew]{1,2}\.|dirt_full|grey_dirt_b|cage'
                      '|pedestal|_pad|blank'),
        'tree': pick(it, 'dngn/trees'),
        'altar': pick(it, 'dngn/altars', but=r'([2-9]|1[01]|(hep|gozag|pakellas|qazlal|xom)1)\.'),    # one frame each
        'gateway': pick(it, 'dngn/gateways', but='_gone|hatch'),
        None: pick(it, ('dngn/traps', 'dngn/shops', 'dngn/water', 'dngn/vaults', 'effect'),
                   but='enter_shop|abandoned|brick|_bord_|grey_dirt|statue|dimension|teleporter|zshrine|wave|ink_|umbra'
                   '|cobweb_[NSEW]|sanctuary|silenced|heataura|glow|effect/needle|net_trap')
        + pick(it, match='dngn/[^/]*fountain'),
    }, near=3.0, cap=55, strangers=110, order=order)


def drawings():
    it = [i for i in tree('/usr/share/openclipart/png')     # folders that are no class of clipart()
          if not re.search(r'_bw|bw_|b_w_|contour|outline|silhou|salami', i.name)]
    return write('drawings', {
        'person': pick(it, 'people', but='people/(clothing|bodypart|smilies|stickmen)|person_ger|meza_c_02|sleeping'
                       '|beach_trip|sailing|car_ride'),
        'smiley': pick(it, 'people/smilies', but='linda_kim|bazelkov'),
        'computer': pick(it, ('computer/hardware', 'computer/network', 'computer/connectors'),
                         but='firewall|switch|nilsson|teed'),
        'instrument': pick(it, 'recreation/music', but='note|croche|quaver|clef|staff|record|vinyl|jukebox|boombox'
                           '|singing|theory|cd_|headphone|microphone|handel|bach_|beethov|jazz|gramophone'),
        'vehicle': pick(it, ('transportation/vehicles', 'transportation/boating'),
                        but='sign|lighthouse|curve|wing_|parking|crossroad|cycle_|blueprint|bluepr|paper_plane|symbol'
                        '|rules|knot|hitch|capsize|jibe|points|tack|running_free|close_hauled|reaching|heel|labels')
        + pick(it, match=r'transportation/[^/]*(_car|car_j|truck|motorcycle|engine|dodge|bmw)', but='blue'),
        None: pick(it, ('recreation/toys', 'recreation/party', 'food/meats_and_eggs', 'office', 'geography/astronomy',
                        'containers', 'recreation/holiday', 'buildings/furniture', 'animals/bugs', 'decorations',
                        'recreation/games/chess', 'signs_and_symbols/weather'),
                   but='phone|car_ride|beach_trip|rchristmas|handshake|cd_|disc|ducks|wagon'),
    }, near=2.5, colour=0.05, cap=45, strangers=110)


KINDS = dict(clipart=clipart, emoji=emoji, stamps=stamps, textures=textures, units=units, tiles=tiles,
             objects=objects, dungeon=dungeon, drawings=drawings)


# ---------------------------------------------------------------- contact sheets

def sheet(folder, out, cell=84, cols=15):
    files = sorted(p for p in folder.iterdir() if p.is_file())
    rows = -(-len(files) // cols)
    page = Image.new('RGB', (cols * cell, rows * (cell + 11)), 'white')
    draw = ImageDraw.Draw(page)
    for k, p in enumerate(files):
        im = on_white(load(p.read_bytes()))
        im.thumbnail((cell - 4, cell - 4))
        x, y = k % cols * cell, k // cols * (cell + 11)
        page.paste(im, (x + 2, y + 2))
        draw.text((x + 2, y + cell - 2), p.stem[-13:], fill='black')
    page.save(out)


def main():
    ap = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    ap.add_argument('root', help='where the folders go, and where own_folders.sh put dl/')
    ap.add_argument('kinds', nargs='*', choices=[[], *KINDS], metavar='KIND', default=[])
    ap.add_argument('--sheets', action='store_true', help='also write contact sheets to sheets/')
    args = ap.parse_args()
    rows = []
    for kind in args.kinds or KINDS:
        rows += KINDS[kind]()
        if args.sheets:
            (OWN / 'sheets').mkdir(exist_ok=True)
            for d in sorted((OWN / 'folders' / kind).iterdir()):
                sheet(d, OWN / f'sheets/{kind}_{d.name}.png')
            sheet(OWN / 'strangers' / kind, OWN / f'sheets/{kind}__strangers.png')
    t = pd.DataFrame(rows)
    for kind, g in t.groupby('kind', sort=False):
        own = g[g.cls != '(strangers)']
        print(f'{kind:9s} {own.n.sum():4d} in {len(own)} classes: '
              + ', '.join(f'{c} {n}' for c, n in zip(g.cls, g.n)))


if __name__ == '__main__':
    main()
