#!/usr/bin/env bash
# A whole Backpack cluster on this machine: ZooKeeper, two Redis, six nodes, three shards, two coordinators, two
# replicators, nginx. It walks through the set-up and a first upload, saying each command, and then runs until Ctrl-C.
#
#   examples/cluster.sh            walk through, then leave the cluster running
#   examples/cluster.sh --check    walk through, then stop everything (exit code 0 if all was as it should be)
#
# Everything it writes is in one temporary folder, everything listens on 127.0.0.1, and everything ends with it.
# Needs Debian's packages zookeeper, redis-server, nginx and curl (`make setup`), and the programs built: BIN_DIR says
# where they are (default target/release).
set -euo pipefail

BIN_DIR=${BIN_DIR:-target/release}
PORT_BASE=${PORT_BASE:-10000}
CHECK=${1:-}

ZK_PORT=$((PORT_BASE + 2181))
REDIS_PORTS=($((PORT_BASE + 6001)) $((PORT_BASE + 6002)))
NODE_PORTS=($((PORT_BASE + 1)) $((PORT_BASE + 2)) $((PORT_BASE + 3)) $((PORT_BASE + 4)) $((PORT_BASE + 5)) $((PORT_BASE + 6)))
COORDINATOR_PORTS=($((PORT_BASE + 2001)) $((PORT_BASE + 2002)))
NGINX_PORT=$((PORT_BASE + 8080))
ZK=127.0.0.1:$ZK_PORT
ROOT=/backpack

BIN_DIR=$(cd "$BIN_DIR" 2>/dev/null && pwd) || { echo "$BIN_DIR does not exist: run 'cargo build --release' first, or set BIN_DIR" >&2; exit 1; }
for program in backpack-node backpack-coordinator backpack-replicator backpack-admin; do
  [ -x "$BIN_DIR/$program" ] || { echo "$BIN_DIR/$program is missing: run 'cargo build --release' first" >&2; exit 1; }
done
PATH=$PATH:/usr/sbin
for program in java redis-server redis-cli nginx curl; do
  command -v "$program" >/dev/null || { echo "$program is missing: run 'make setup' first" >&2; exit 1; }
done

WORK=$(mktemp -d)
PIDS=()
stop_all() {
  local index
  for ((index = ${#PIDS[@]} - 1; index >= 0; index--)); do kill "${PIDS[index]}" 2>/dev/null || true; done
  for pid in "${PIDS[@]}"; do wait "$pid" 2>/dev/null || true; done
  rm -rf "$WORK"
}
trap stop_all EXIT
trap 'exit 130' INT TERM

# start NAME COMMAND...: in the background, its output in a log.
start() {
  local name=$1
  shift
  "$@" >"$WORK/$name.log" 2>&1 &
  PIDS+=($!)
}

# wait_for WHAT COMMAND...: until the command succeeds, at most 30 seconds.
wait_for() {
  local what=$1 deadline=$((SECONDS + 30))
  shift
  until "$@" >/dev/null 2>&1; do
    if ((SECONDS > deadline)); then
      echo "$what did not come up; logs:" >&2
      tail -n 20 "$WORK"/*.log >&2
      exit 1
    fi
    sleep 0.1
  done
}

# show COMMAND...: what a reader would type, then what it prints.
show() {
  echo "\$ $*"
  "$@"
}
admin() { "$BIN_DIR/backpack-admin" "$@"; }
# run_admin COMMAND...: shown under its short name.
run_admin() {
  echo "\$ backpack-admin $*"
  admin "$@"
}
fail() {
  echo "FAILED: $*" >&2
  exit 1
}

echo "# ZooKeeper and two Redis"
mkdir -p "$WORK/zookeeper"
cat >"$WORK/zoo.cfg" <<END
tickTime=2000
dataDir=$WORK/zookeeper
clientPort=$ZK_PORT
clientPortAddress=127.0.0.1
admin.enableServer=false
END
start zookeeper java -Xmx256m -cp "$WORK:/etc/zookeeper/conf:/usr/share/java/zookeeper.jar" \
  org.apache.zookeeper.server.quorum.QuorumPeerMain "$WORK/zoo.cfg"
for port in "${REDIS_PORTS[@]}"; do
  mkdir -p "$WORK/redis-$port"
  start "redis-$port" redis-server --bind 127.0.0.1 --port "$port" --dir "$WORK/redis-$port" --appendonly yes
  wait_for "Redis on $port" redis-cli -p "$port" ping
done

echo "# Set-up"
REDIS=127.0.0.1:${REDIS_PORTS[0]},127.0.0.1:${REDIS_PORTS[1]}
# It takes connections before it serves: asked how it is, it says its mode only when it does, and may never answer who asked before.
wait_for ZooKeeper timeout 5 bash -c "exec 3<>/dev/tcp/127.0.0.1/$ZK_PORT; echo srvr >&3; grep -q Mode <&3"
run_admin coordinator-init "$ZK" "$ROOT" backpack-queue "$REDIS"
for id in 1 2 3 4 5 6; do
  run_admin add-server "$ZK" "$ROOT" "$id" "http://127.0.0.1:${NODE_PORTS[id - 1]}"
done
run_admin add-shard "$ZK" "$ROOT" 1 1,4 100gb
run_admin add-shard "$ZK" "$ROOT" 2 2,5 100gb
run_admin add-shard "$ZK" "$ROOT" 3 3,6 100gb
run_admin enable-shard "$ZK" "$ROOT" 1

echo "# Six nodes, two coordinators, two replicators"
for id in 1 2 3 4 5 6; do
  start "node-$id" "$BIN_DIR/backpack-node" "$WORK/node-$id" 127.0.0.1 "${NODE_PORTS[id - 1]}" --id "$id" --zk "$ZK" --root "$ROOT"
done
for port in "${NODE_PORTS[@]}"; do wait_for "the node on $port" curl -fsS "http://127.0.0.1:$port/-/ready"; done
for port in "${COORDINATOR_PORTS[@]}"; do
  start "coordinator-$port" "$BIN_DIR/backpack-coordinator" "$ZK" "$ROOT" 127.0.0.1 "$port"
done
for port in "${COORDINATOR_PORTS[@]}"; do wait_for "the coordinator on $port" curl -fsS "http://127.0.0.1:$port/-/ready"; done
for number in 1 2; do start "replicator-$number" "$BIN_DIR/backpack-replicator" "$ZK" "$ROOT"; done

echo "# nginx, with the configuration of the live maps"
mkdir -p "$WORK/nginx"
run_admin nginx-config "$ZK" "$ROOT" --listen "127.0.0.1:$NGINX_PORT" --output "$WORK/nginx/nginx.conf"
start nginx nginx -p "$WORK/nginx" -c nginx.conf -e stderr -g 'daemon off;'
wait_for nginx bash -c "exec 3<>/dev/tcp/127.0.0.1/$NGINX_PORT"

echo "# An upload, and its reads"
echo 'Hello, Backpack!' >"$WORK/hello.txt"
UPLOADED=$(show curl -fsS -T "$WORK/hello.txt" "http://127.0.0.1:${COORDINATOR_PORTS[0]}/hi.txt")
echo "$UPLOADED"
UPLOADED=${UPLOADED##*$'\n'}
[ "$UPLOADED" = '{"shard_id":"1"}' ] || fail "the upload answered $UPLOADED"
for port in "${NODE_PORTS[0]}" "${NODE_PORTS[3]}"; do
  wait_for "the copy on port $port" curl -fsS "http://127.0.0.1:$port/hi.txt"
  show curl -fsS "http://127.0.0.1:$port/hi.txt"
done
show curl -fsS "http://127.0.0.1:$NGINX_PORT/1:hi.txt"
curl -fsS "http://127.0.0.1:$NGINX_PORT/1:hi.txt" | cmp - "$WORK/hello.txt" || fail "nginx gave other bytes"

echo "# A blob that only the second server of the shard has: nginx hides the first one's 404"
curl -fsS -T "$WORK/hello.txt" "http://127.0.0.1:${NODE_PORTS[3]}/only-on-4.txt"
for _ in 1 2 3 4; do
  curl -fsS "http://127.0.0.1:$NGINX_PORT/1:only-on-4.txt" | cmp - "$WORK/hello.txt" || fail "the retry did not find it"
done
show curl -fsS -o /dev/null -w '%{http_code}\n' "http://127.0.0.1:$NGINX_PORT/1:only-on-4.txt"

echo "# What is in it (coordinators add what they stored once a second)"
counted() { admin print-stats "$ZK" "$ROOT" | grep -q '^1 .* 17b / 100gb'; }
wait_for "the count of stored bytes" counted
run_admin print-stats "$ZK" "$ROOT"
run_admin status "$ZK" "$ROOT"

[ "$CHECK" = --check ] && { echo "All is as it should be."; exit 0; }
cat <<END

The cluster runs until Ctrl-C. Try:
  curl -T FILE http://127.0.0.1:${COORDINATOR_PORTS[1]}/NAME
  curl http://127.0.0.1:$NGINX_PORT/1:NAME
  $BIN_DIR/backpack-admin status $ZK $ROOT
Logs are in $WORK.
END
wait
