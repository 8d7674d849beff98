#!/usr/bin/env bash
# Stands in for scp where no ssh runs: `scp FILE HOST:PATH` between the machines of one test.
set -euo pipefail
while [[ ${1:-} == -* ]]; do shift; done
from=$1 host=${2%%:*} path=${2#*:}
root=$(cat "$MACHINES/${host##*@}.host")
case $path in
  /etc/weft/*) to=$root/etc/${path#/etc/weft/} ;;
  /root/*) to=$root/home/${path#/root/} ;;
  *) echo "scp: only /etc/weft and /root can be written here" >&2; exit 1 ;;
esac
cp --preserve=mode "$from" "$to"
