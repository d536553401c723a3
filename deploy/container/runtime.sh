#!/usr/bin/env bash
# What the Dockerfile's last stages run: what the base lacks, the user, the places, the bill of materials.
#
#   runtime.sh [llama]
set -euo pipefail

opt=/opt/wakegate
user=10001 # not 1000: that is `ubuntu` in Ubuntu's images, and somebody's own account on the host

needed=(openssl) # makes the certificate of a rented worker; where there are certificates to trust it is there
"$opt/bin/python" -c '' 2>/dev/null || needed+=(python3) # which it was made from, in the stage that builds
if [[ ${1:-} == llama ]]; then needed+=(libgomp1 libstdc++6); fi
missing=()
for package in "${needed[@]}"; do
  [[ $(dpkg-query -W -f '${Status}' "$package" 2>/dev/null) == *' installed' ]] || missing+=("$package")
done
if ((${#missing[@]})); then
  apt-get update -q
  # No versions: Debian's mirrors drop one as soon as it has been mended. The base image is what is pinned.
  DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "${missing[@]}"
  rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/log/apt /var/log/dpkg.log
fi

# Here, and not when somebody first talks to it: what was built is what this base can load. The driver's own library
# comes with the machine.
"$opt/bin/python" -c 'import aiohttp._http_parser, gateway.config, uvloop'
lacks=$(find "$opt" -path '*/llama_cpp/lib/*.so' -exec ldd {} + | grep 'not found' | grep -v libcuda.so.1 || true)
if [[ -n $lacks ]]; then
  echo "[runtime] llama.cpp lacks here: $lacks" >&2
  exit 1
fi

groupadd --gid "$user" wakegate
useradd --uid "$user" --gid "$user" --no-create-home --home-dir /home/wakegate --shell /usr/sbin/nologin wakegate
# Group 0 may write as well: OpenShift runs images as any number, in that group.
install -d -o "$user" -g 0 -m 0775 /home/wakegate /data

ln -s "$opt/share/entrypoint.sh" /usr/local/bin/wakegate-entrypoint
ln -s wakegate-entrypoint /usr/local/bin/wakegate

mapfile -t places < <(python3 -I -c 'import site; print("\n".join(site.getsitepackages()))')
mkdir -p /usr/share/sbom
"$opt/bin/python" -I -S "$opt/share/make_sbom.py" "$opt"/lib/python3.*/site-packages "${places[@]}" \
  >/usr/share/sbom/wakegate.cdx.json
