# Sourced by examples/run.sh and tests/run.sh.
# need_packages WHAT PACKAGE=PROBE...: makes sure that each Debian package is there. A probe is a command, or a
# file if it begins with a slash. What is missing is installed with apt; without root or sudo, or without apt,
# it is named and the script ends with status 1.
need_packages() {
  local what=$1 missing=() entry package probe
  shift
  for entry in "$@"; do
    package=${entry%%=*} probe=${entry#*=}
    if [[ $probe == /* ]]; then
      [[ -e $probe || -e /usr/local${probe#/usr} ]] || missing+=("$package")
    else
      command -v "$probe" > /dev/null || missing+=("$package")
    fi
  done
  (( ${#missing[@]} )) || return 0

  if ! can_install; then
    echo "Not on this machine, and needed for $what: ${missing[*]}" >&2
    echo "On Debian or Ubuntu, install them as root and start again:" >&2
    echo "    apt-get update && apt-get install --no-install-recommends ${missing[*]}" >&2
    exit 1
  fi

  local as_root=()
  (( EUID == 0 )) || as_root=(sudo)
  echo "== installing ${missing[*]}"
  ${as_root[@]+"${as_root[@]}"} apt-get update -qq
  ${as_root[@]+"${as_root[@]}"} env DEBIAN_FRONTEND=noninteractive \
    apt-get install -y -qq --no-install-recommends "${missing[@]}"
}

# Whether apt can be used: as root, or with sudo, which may ask for a password only if someone sits there.
can_install() {
  command -v apt-get > /dev/null || return 1
  (( EUID == 0 )) || { command -v sudo > /dev/null && { [[ -t 0 ]] || sudo -n true 2> /dev/null; }; }
}

# A model's templates take up to 1 GB per compile job: never more than two.
compile_jobs() {
  local cores
  cores=$(nproc 2> /dev/null || echo 1)
  echo $(( cores < 2 ? cores : 2 ))
}
