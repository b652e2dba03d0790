# shellcheck shell=bash
# Root file systems from Debian packages, from the mirror that this machine itself uses. Sourced, never run.

debian_mirror() {
  {
    grep -hs '^URIs:' /etc/apt/sources.list.d/*.sources | awk '{print $2}'
    grep -hs '^deb ' /etc/apt/sources.list /etc/apt/sources.list.d/*.list | sed 's/\[[^]]*\]//' | awk '{print $2}'
  } | grep -v security | head -1
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
