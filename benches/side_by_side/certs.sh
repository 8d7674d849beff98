#!/usr/bin/env bash
# Makes in the given directory a CA and two SPIFFE leaves (ECDSA P-256) for the proxies that get none from a server.
set -euo pipefail
mkdir -p "$1"
cd "$1"
[ -s server.pem ] && exit 0

openssl ecparam -name prime256v1 -genkey -noout -out ca.key
openssl req -x509 -new -key ca.key -days 30 -subj /CN=bench-ca -out ca.crt \
  -addext 'subjectAltName=URI:spiffe://bench.test' -addext 'keyUsage=critical,keyCertSign,cRLSign' 2>/dev/null

leaf() {
  local name=$1 service=$2
  openssl ecparam -name prime256v1 -genkey -noout | openssl pkcs8 -topk8 -nocrypt -out "$name.key"
  openssl req -new -key "$name.key" -subj "/CN=$name" -out "$name.csr" 2>/dev/null
  printf '%s\n' "subjectAltName=URI:spiffe://bench.test/ns/default/sa/$service,DNS:$name.bench.test" \
    'keyUsage=critical,digitalSignature' 'extendedKeyUsage=serverAuth,clientAuth' >"$name.ext"
  openssl x509 -req -in "$name.csr" -CA ca.crt -CAkey ca.key -CAcreateserial -days 30 -out "$name.crt" \
    -extfile "$name.ext" 2>/dev/null
  cat "$name.crt" "$name.key" >"$name.pem"
}

leaf client web
leaf server api
