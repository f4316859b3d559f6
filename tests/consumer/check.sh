#!/bin/sh
# Build programs against an installed library, by find_package and by pkg-config, with each compiler that is here, and
# run them.
#
#     tests/consumer/check.sh PREFIX FOLDER
#
# FOLDER is for what is built. The examples are built too, if the library has all of its parts and they are there.
set -eu
prefix=$(cd "$1" && pwd)
mkdir -p "$2"
folder=$(cd "$2" && pwd)
here=$(cd "$(dirname "$0")" && pwd)
root=$here/../..
export PKG_CONFIG_PATH="$(dirname "$(find "$prefix" -name fastlstm.pc)")"

# build SOURCE NAME [ARGUMENT...]: a project of CMake, and its tests
build() {
    source=$1 built=$folder/$2
    shift 2
    cmake -S "$source" -B "$built" -DCMAKE_PREFIX_PATH="$prefix" "$@" >"$built.log"
    cmake --build "$built" >>"$built.log" || { cat "$built.log"; exit 1; }
    (cd "$built" && ctest --output-on-failure --no-tests=ignore)
}

found=
for pair in gcc:g++ clang:clang++; do
    cc=${pair%:*} cxx=${pair#*:}
    type "$cc" >/dev/null 2>&1 || { echo "no $cc here"; continue; }
    found=$cc
    build "$here" "consumer-$cc" -DCMAKE_C_COMPILER="$cc"
    for example in c cpp; do
        [ -f "$root/examples/$example/CMakeLists.txt" ] || continue
        type "$cxx" >/dev/null 2>&1 || { echo "no $cxx here"; continue; }
        build "$root/examples/$example" "examples-$example-$cc" -DCMAKE_C_COMPILER="$cc" -DCMAKE_CXX_COMPILER="$cxx"
    done
    type pkg-config >/dev/null 2>&1 || { echo "no pkg-config here"; continue; }
    for kind in "" --static; do
        # with --static, the archive is taken because there is no other library in the folder that comes first
        libraries=$(pkg-config --cflags --libs $kind fastlstm)
        if [ -n "$kind" ]; then
            mkdir -p "$folder/static"
            cp "$(find "$prefix" -name libfastlstm.a)" "$folder/static" 2>/dev/null || continue
            libraries="-L'$folder/static' $libraries"
        fi
        # They are several words, in which pkg-config has escaped the spaces of a folder's name.
        eval "set -- $libraries"
        "$cc" -std=c11 -Wall -Wextra -Werror "$here/consumer.c" "$@" -lm -o "$folder/by-pkg-config-$cc$kind"
        LD_LIBRARY_PATH=$(dirname "$(find "$prefix" -name 'libfastlstm.*' | head -1)") "$folder/by-pkg-config-$cc$kind"
    done
done
[ -n "$found" ] || { echo "no compiler here"; exit 1; }
