# shellcheck shell=bash
# Root file systems from Debian packages, from the mirror that this machine itself uses. Sourced, never run.

# need PACKAGE...: install what is missing; each is called like the command it brings.
need() {
  local name missing=()
  for name in "$@"; do command -v "$name" >/dev/null || missing+=("$name"); done
  [ ${#missing[@]} -gt 0 ] || return 0
  [ "$(id -u)" = 0 ] || die "missing commands: ${missing[*]}"
  # gcc alone comes without the C library's headers.
  case " ${missing[*]} " in *" gcc "*) missing+=(libc6-dev) ;; esac
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
}

# The first mirror in either form of apt's sources: `URIs: …` or `deb [options] …`.
debian_mirror() {
  cat /etc/apt/sources.list.d/*.sources /etc/apt/sources.list /etc/apt/sources.list.d/*.list 2>/dev/null |
    sed -nE 's/^URIs: *//p; s/^deb +(\[[^]]*\] *)?//p' | awk '!/security/ && !mirror {mirror = $1} END {print mirror}' ||
    true # some of these files never exist
}

# bootstrap SUITE DIR PACKAGES: a minimal system in DIR, whole or not at all.
bootstrap() {
  local suite=$1 dir=$2 packages=$3
  [ -d "$dir" ] && return
  rm -rf "$dir.new"
  # The script named `sid` serves every recent suite, also those that this machine's debootstrap does not know yet.
  debootstrap --variant=minbase --include="$packages" "$suite" "$dir.new" "$(debian_mirror)" \
    /usr/share/debootstrap/scripts/sid
  rm -rf "$dir.new"/var/cache/apt/archives/*.deb "$dir.new"/var/lib/apt/lists/*
  mv "$dir.new" "$dir"
}
