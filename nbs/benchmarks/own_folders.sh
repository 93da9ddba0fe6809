#!/bin/bash
# Fetch and unpack (without installing) what own_folders.py reads, about 750 MB, into ROOT/dl: bash own_folders.sh ROOT
# Packages of Debian 12, its sources (deb-src) among them, and one of npm.
set -eu
DL=${1:-_data/own}/dl
mkdir -p "$DL/un" && cd "$DL"
# 1. clipart: openclipart-png is installed system-wide (/usr/share/openclipart/png)
[ -d /usr/share/openclipart/png ] || apt-get install -y openclipart-png
# 3. 4. 5. stamps, textures, Wesnoth sprites
for p in tuxpaint-stamps-default ufoai-textures openarena-081-textures wesnoth-1.16-data; do
    ls "$p"_*.deb >/dev/null 2>&1 || nice -n 10 apt-get download "$p"
    [ -d "un/$p" ] || nice -n 10 dpkg-deb -x "$p"_*.deb "un/$p"
done
# 2. emoji
ls emoji-datasource-google-*.tgz >/dev/null 2>&1 || npm pack emoji-datasource-google@16.0.0 --silent
if [ ! -d un/emoji ]; then
    mkdir un/emoji
    tar xzf emoji-datasource-google-*.tgz -C un/emoji --wildcards \
        'package/img/google/64/*' package/emoji.json package/package.json
fi
# 6. tiles: the *source* tarball of crawl has every tile as a PNG of its own
# (the binary package has atlases only)
ls crawl_*.orig.tar.xz >/dev/null 2>&1 || apt-get source --download-only crawl || true
if [ ! -d un/crawl-src ]; then
    mkdir un/crawl-src
    tar xf crawl_*.orig.tar.xz -C un/crawl-src --wildcards '*/rltiles/*.png'
fi
