#!/bin/sh
# Make an authority and a server certificate for a broker: certificates.sh FOLDER HOST [HOST ...]
# HOST is what clients connect to, a name or an IP address. Needs openssl 1.1.1 or newer.
set -eu
[ $# -ge 2 ] || { echo "usage: $0 FOLDER HOST [HOST ...]" >&2; exit 2; }
command -v openssl >/dev/null || { echo "openssl is missing: apt-get install openssl" >&2; exit 1; }
folder=$1
shift
names=
for host in "$@"; do
  case $host in
  *[!0-9.]*) case $host in *:*) kind=IP ;; *) kind=DNS ;; esac ;;
  *) kind=IP ;;
  esac
  names="${names:+$names,}$kind:$host"
done
umask 077
mkdir -p "$folder"
cd "$folder"
if [ ! -e ca.key ]; then
  openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -sha256 -days 3650 \
    -subj "/CN=trimtab authority" -addext "keyUsage=critical,keyCertSign,cRLSign" -keyout ca.key -out ca.crt
fi
openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -sha256 \
  -subj "/CN=$1" -keyout server.key -out server.csr
printf 'subjectAltName=%s\nextendedKeyUsage=serverAuth\nbasicConstraints=CA:FALSE\n' "$names" >server.ext
openssl x509 -req -sha256 -days 825 -in server.csr -CA ca.crt -CAkey ca.key -CAcreateserial \
  -extfile server.ext -out server.crt
rm server.csr server.ext
chmod 644 ca.crt server.crt
