#!/usr/bin/env bash
# Stands in for systemd where there is none: runs what a unit's ExecStart says as the unit's user, who owns its
# StateDirectory, and stops it with SIGTERM. Of a oneshot it runs ExecStart and ExecStop, with the rights that the unit gives; it
# ends before what it is bound to.
set -euo pipefail
verb=$1
shift
now=no
while [[ ${1:-} == -* ]]; do
  [ "$1" = --now ] && now=yes
  shift
done
case $verb/$now in
  enable/yes) verb=start ;;
  disable/yes) verb=stop ;;
  enable/no | disable/no | daemon-reload/*) exit 0 ;;
esac
for unit in "$@"; do
  unit=${unit%.service}
  file=$MACHINES/units/$unit.service
  [ -f "$file" ] || { echo "Unit $unit.service not found." >&2; exit 5; }
  state=$RUN/$unit
  setting() { sed -n "s/^$1=//p" "$file"; }
  is_oneshot() { [ "$(setting Type)" = oneshot ]; }
  is_running() { if is_oneshot; then [ -f "$state.active" ]; else [ -f "$state.pid" ] && [ ! -f "$state.ended" ]; fi; }
  once() {
    set -a
    # shellcheck disable=SC1090
    . "$(setting EnvironmentFile)"
    set +a
    capability=$(setting AmbientCapabilities | sed 's/^CAP_//' | tr '[:upper:]' '[:lower:]')
    command=$(setting "$1")
    # The unit's variables are split into words, as systemd does it.
    eval "setpriv --reuid=$(setting User) --regid=$(setting Group) --init-groups --no-new-privs \
      --bounding-set=-all,+$capability --inh-caps=-all,+$capability --ambient-caps=-all,+$capability \
      ${command/#\/usr\/bin\/weft/weft}" >>"$state.log" 2>&1
  }
  stop() {
    is_running || return 0
    if is_oneshot; then
      once ExecStop
      rm "$state.active"
      return 0
    fi
    for bound in $(grep -l "^BindsTo=$unit.service" "$MACHINES"/units/*.service); do
      bound=$(basename "$bound" .service)
      [ ! -f "$RUN/$bound.active" ] || "$0" stop "$bound"
    done
    kill -TERM "$(cat "$state.pid")" 2>/dev/null || true
    for _ in $(seq 450); do
      [ -f "$state.ended" ] && return 0
      sleep 0.1
    done
    kill -KILL "$(cat "$state.pid")"
  }
  start() {
    is_running && return 0
    if is_oneshot; then
      once ExecStart
      touch "$state.active"
      return 0
    fi
    rm -f "$state.ended" "$state.pid"
    command=$(setting ExecStart) user=$(setting User) group=$(setting Group)
    directory=/var/lib/$(setting StateDirectory)
    install -d -m "$(setting StateDirectoryMode)" "$directory"
    chown -R "$user:$group" "$directory"
    (
      umask 0077
      # shellcheck disable=SC2086
      setsid setpriv --reuid="$user" --regid="$group" --init-groups --no-new-privs --bounding-set=-all \
        ${command/#\/usr\/bin\/weft/weft} </dev/null >>"$state.log" 2>&1 &
      echo $! >"$state.pid"
      wait $! || echo "$unit ended with $?" >>"$state.log"
      touch "$state.ended"
    ) </dev/null >/dev/null 2>&1 &
    until [ -f "$state.pid" ]; do sleep 0.01; done
  }
  case $verb in
    start) start ;;
    stop) stop ;;
    restart) stop; start ;;
    reload) is_running && kill -HUP "$(cat "$state.pid")" ;;
    is-active) is_running ;;
    *) echo "systemctl $verb is not known here" >&2; exit 1 ;;
  esac
done
