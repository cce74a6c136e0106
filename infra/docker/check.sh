#!/bin/sh
# Build the CPU image for real where no registry can be reached, and run commands in it. The base is made of Debian's
# packages (bookworm with its own Python 3.11) and takes the place of python:3.11-slim-bookworm.
#   sh infra/docker/check.sh FOLDER [OPTION OF buildah bud]...
# Needs root, debootstrap and buildah; FOLDER takes about 9 GB and can be deleted afterwards. The options are how this
# machine's pip settings get in without becoming part of the image, for example
#   --volume /etc/pip.conf:/etc/pip.conf:ro --build-arg TORCH_INDEX=<a wheel index with CPU builds of torch>
set -eu
folder=$1
shift
mkdir -p "$folder"
cd "$(dirname "$0")/../.."
storage="--root $folder/storage --runroot $folder/run --storage-driver ${STORAGE_DRIVER:-vfs}"
engine() { # shellcheck disable=SC2086
    buildah $storage "$@"
}

[ -e "$folder/root/.made" ] || {
    debootstrap --variant=minbase \
        --include=ca-certificates,python3.11,python3.11-dev,python3-pip,python3-setuptools,python3-wheel \
        bookworm "$folder/root" > "$folder/debootstrap.log" 2>&1
    ln -s /usr/bin/python3.11 "$folder/root/usr/local/bin/python"
    rm -f "$folder/root/usr/lib/python3.11/EXTERNALLY-MANAGED" "$folder"/root/var/cache/apt/archives/*.deb
    touch "$folder/root/.made"
}
base=$(engine from scratch)
engine add -q "$base" "$folder/root" / > "$folder/base.log"
engine commit -q --rm "$base" recipe-base > "$folder/base.log"

engine bud --isolation chroot --build-arg BASE=localhost/recipe-base --tag recipe-cpu "$@" \
    --file infra/docker/cpu.Dockerfile .

made=$(engine from --pull-never recipe-cpu)
inside() {
    echo "--- $*"
    engine run --isolation chroot "$made" -- "$@"
}
inside nanbeige --help
inside nanbeige doctor
inside nanbeige plan --profile laptop --store /data/store
inside nanbeige run --profile laptop --store /data/store --until ingest
engine rm "$made" > "$folder/base.log"
