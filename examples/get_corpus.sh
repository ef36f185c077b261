#!/bin/bash
# Prints the path of a training text, and downloads it first if necessary:
#   1. a text that is already in data/,
#   2. tiny Shakespeare (the 1.1 MB from Andrej Karpathy's char-rnn), from its public address,
#   3. the King James Bible (4.4 MB, public domain), from Debian's packages; nothing is installed.
# If none is available it prints nothing and exits with status 3; train then generates a synthetic text.
# Downloads are checked by SHA-256.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

url=https://raw.githubusercontent.com/karpathy/char-rnn/6f9487a6fe5b420b7ca9afb0d7c078e37c1d1b4e/data/tinyshakespeare/input.txt
shakespeare=data/tinyshakespeare.txt
shakespeare_sha256=86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed
bible=data/bible.txt
bible_sha256=cd45f0c9cedab8e4439bd6486c8952c77cc8b0ecc5d1f6ae3513f2039f47229d

say() { echo "get_corpus: $*" >&2; }
holds() { [[ $(sha256sum "$1" | cut -d' ' -f1) == "$2" ]]; }

# accept FILE SHA256 PATH: moves a downloaded file to PATH if its hash is right.
accept() {
  if holds "$1" "$2"; then
    mv "$1" "$3"
    echo "$3"
    exit 0
  fi
  say "what came is not the text expected (its SHA-256 differs), so it is thrown away"
}

# use_if_there FILE SHA256: a text that lies in data/ is used as it is, and never replaced.
use_if_there() {
  [[ -f $1 && -s $1 ]] || return 0
  holds "$1" "$2" || say "note: $1 is not the usual text (its SHA-256 differs)"
  echo "$1"
  exit 0
}

use_if_there "$shakespeare" "$shakespeare_sha256"

if ! mkdir -p data 2> /dev/null || ! work=$(mktemp -d data/.fetch-XXXXXX 2> /dev/null); then
  use_if_there "$bible" "$bible_sha256"
  say "nothing can be written to data/ here; a generated text will be used"
  exit 3
fi
trap 'rm -rf "$work"' EXIT

say "fetching tiny Shakespeare"
if command -v curl > /dev/null; then
  curl -fsSL --connect-timeout 5 --max-time 60 -o "$work/text" "$url" 2> /dev/null || rm -f "$work/text"
elif command -v wget > /dev/null; then
  timeout 60 wget -q --tries=1 --timeout=10 -O "$work/text" "$url" 2> /dev/null || rm -f "$work/text"
else
  say "there is neither curl nor wget"
fi
if [[ -s $work/text ]]; then
  accept "$work/text" "$shakespeare_sha256" "$shakespeare"
else
  say "tiny Shakespeare cannot be reached from here"
fi

use_if_there "$bible" "$bible_sha256"
say "looking for the King James Bible in Debian's packages"
program=$(command -v bible || true) text=/usr/lib
if [[ -z $program || ! -e $text/bible.data ]] && command -v apt-get > /dev/null && command -v dpkg-deb > /dev/null; then
  # Unpacked, not installed; the program reads lines with libreadline, which a small system may lack.
  for package in bible-kjv bible-kjv-text libreadline8; do
    (cd "$work" && timeout 60 apt-get download -qq "$package" > /dev/null 2>&1) || true
  done
  for package in "$work"/*.deb; do
    [[ ! -e $package ]] || dpkg-deb -x "$package" "$work"
  done
  program=$work/usr/bin/bible text=$work/usr/lib
  export LD_LIBRARY_PATH=$(echo "$PWD/$work"/lib/*/):${LD_LIBRARY_PATH:-}
fi
if [[ -x $program && -e $text/bible.data ]]; then
  "$program" -p "$text" -f Gen1:1-Rev22:21 > "$work/text" 2> /dev/null < /dev/null || true
  accept "$work/text" "$bible_sha256" "$bible"
fi

say "no text can be had here; a generated one will be used"
exit 3
