#!/usr/bin/env bash
# Stands in for the command line of a cloud: hands what is asked of it to the test, with the file that it is about, and waits
# until that has carried it out.
set -euo pipefail
mkdir -p "$MACHINES/asked"
asked=$(mktemp -d "$MACHINES/asked/XXXXXX")
for word in "$@"; do
  file=${word#file://}
  if [ "$word" = - ]; then cat > "$asked/file"; elif [ -f "$file" ]; then cp "$file" "$asked/file"; fi
done
printf '%s\n' "${0##*/}" "$@" > "$asked/words.new"
mv "$asked/words.new" "$asked/words"
until [ -f "$asked/answer" ]; do sleep 0.05; done
cat "$asked/answer"
