#!/bin/sh
# Publish a built site as a version: sh docs/publish.sh BUILT VERSION, in a clone whose origin has, or
# gets, the branch gh-pages. The branch is one commit without a past, as built pages would soon weigh
# more than the sources.
set -eu
built=$1 version=$2
sites=$(mktemp -d)
trap 'rm -rf "$sites"; git worktree prune' EXIT
there=0
git ls-remote --exit-code --heads origin gh-pages >/dev/null || there=$?
case $there in
    0) git fetch --quiet --depth 1 origin gh-pages
       git worktree add --quiet --force --detach "$sites/pages" FETCH_HEAD ;;
    2) git worktree add --quiet --detach "$sites/pages" # the first time
       git -C "$sites/pages" rm -rq . ;;
    *) exit "$there" ;; # what is published would be lost
esac
python3 docs/publishing.py "$built" "$sites/pages" "$version"
pages() { git -C "$sites/pages" "$@"; }
pages checkout --quiet --orphan pages
pages add --all
pages -c user.name=fastlstm -c user.email=docs@fastlstm.invalid commit --quiet --message "site: $version"
pages push --quiet --force origin HEAD:gh-pages
pages checkout --quiet --detach
git branch --quiet --delete --force pages
