#!/bin/sh
# Make the secrets of docker-compose.yml once, in the folder secrets/: a certificate authority and the broker's certificate,
# a password for each service, the users of the broker's ACL, and the keys that sign events.
#
#   sh docs/operations/compose/make-secrets.sh            make what is missing
#   sh docs/operations/compose/make-secrets.sh --renew    make a new certificate of the broker, by the same authority
set -eu
umask 077
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
services='publish orchestrator memory tools llm output listening speaking watching proactive supervisor beat operator service'
options='ssl_cert_reqs=required&ssl_ca_certs=/run/secrets/ca.crt'

mkdir -p secrets
cd secrets

if [ ! -e ca.key ]; then
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 3650 -subj '/CN=petiole authority' \
        -keyout ca.key -out ca.crt 2> /dev/null
fi
if [ ! -e broker.crt ] || [ "${1:-}" = --renew ]; then
    openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj '/CN=valkey' \
        -keyout broker.key -out broker.csr 2> /dev/null
    printf 'subjectAltName=DNS:valkey,DNS:localhost,IP:127.0.0.1\nextendedKeyUsage=serverAuth\n' > broker.ext
    openssl x509 -req -in broker.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 397 -extfile broker.ext \
        -out broker.crt 2> /dev/null
    rm -f broker.csr broker.ext ca.srl
fi

for service in $services; do
    if [ ! -e "$service.env" ]; then
        printf 'PETIOLE_BROKER_URL=rediss://%s:%s@%s/0?%s\n' "$service" "$(openssl rand -hex 32)" \
            "${PETIOLE_BROKER_HOST:-valkey:6379}" "$options" > "$service.env"
    fi
done

if [ ! -e signing-keys.toml ]; then
    for publisher in petiole $services; do
        printf '[%s]\n"%s" = "%s"\n' "$publisher" "$(date +%Y-%m)" "$(openssl rand -hex 32)"
    done > signing-keys.toml
fi

# For a service of your own, which signs and checks nobody else's signature.
grep -A 1 '^\[service\]' signing-keys.toml > service-keys.toml

# The server gets hashes of the passwords.
hash_of() {
    printf %s "$(sed "s|.*://$1:\([^@]*\)@.*|\1|" "$1.env")" | openssl dgst -sha256 -r | cut -d ' ' -f 1
}
awk '
    function expanded(text,    count, words, at, line) {
        count = split(text, words, " ")
        for (at = 1; at <= count; at++) line = line " " (words[at] in macros ? macros[words[at]] : words[at])
        return substr(line, 2)
    }
    /^define / { name = $2; sub(/^define [^ ]+ +/, ""); macros[name] = expanded($0) }
    /^user / { user = $2; line = expanded($0); gsub(/SELF/, user, line); print line }
' "$here/users.acl" > users.acl.new
for service in $services; do
    sed "s|^user $service on |user $service on #$(hash_of "$service") |" users.acl.new > users.acl.next
    mv users.acl.next users.acl.new
done
mv users.acl.new users.acl

# Mounted into containers, whose users have other ids: the folder keeps other users of this machine out.
chmod 700 .
chmod 644 ca.crt broker.crt broker.key users.acl signing-keys.toml
echo "secrets/ is complete"
